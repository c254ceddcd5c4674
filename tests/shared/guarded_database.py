"""A database that asks for a password, as a server does: SQLite behind a URL of its own."""

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL


PASSWORD = "s3cr/t @word"
VARIABLE = "GUARDED_PASSWORD"
"""Where the database's own client looks for a password, as libpq does in PGPASSWORD."""


class GuardedDialect(SQLiteDialect_pysqlite):
    """Opens the file of a URL for those who know the password, and repeats what others gave."""

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> Any:
        """Return what `connect` is called with."""
        found = url.password or url.query.get("password") or os.environ.get(VARIABLE)
        return ([f"/{url.database}"], {"password": found})

    def connect(self, *arguments: Any, password: str | None = None, **others: Any) -> Any:
        """Connect, or raise a driver's error that repeats the password."""
        if password != PASSWORD:
            raise sqlite3.OperationalError(
                f"password authentication failed for nas:{password} ({quote(password or '')})"
            )
        return super().connect(*arguments, **others)


registry.register("guarded", __name__, "GuardedDialect")


def guarded_url(path: Path, password: str | None = None, *, in_query: bool = False) -> str:
    """Return the URL of a file behind the password."""
    if password is None:
        return f"guarded://nas@host{path}"
    if in_query:
        return f"guarded://nas@host{path}?password={quote(password, safe='')}"
    return f"guarded://nas:{quote(password, safe='')}@host{path}"
