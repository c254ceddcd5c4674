"""The database of a run's study: its URL, whose password is used and never written."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from castling.errors import ConfigError


VARIABLE = "CASTLING_STORAGE"
"""The environment variable that may hold the URL with its password."""
PASSWORD_VARIABLES = (VARIABLE, "PGPASSWORD", "MYSQL_PWD")
"""Environment variables that hold passwords of databases."""
SECRET_KEYS = re.compile(
    r"pass|pwd|secret|token|credential|api_?key|private_?key|^odbc_connect$", re.IGNORECASE
)
"""Pattern of keys in a URL's query whose values are, or may contain, a password."""
HARMLESS_KEYS = {"passfile"}
"""Keys that match the pattern, but name a file."""
HIDDEN_PASSWORD = re.compile(r"(pass(word|wd|phrase)?|pwd|secret|token)\s*=", re.IGNORECASE)
"""Pattern of a password within another part of a URL."""


def parse_url(text: str, field: str = "storage") -> URL:
    """Return a database's URL.

    Args:
        text: the URL of the user.
        field: its name in the error, which never repeats the URL.

    Raises:
        ConfigError: when the URL is malformed, or its password cannot be removed.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        rule = "must be the URL of a database, as sqlite:///study.db or postgresql://user@host/db"
        raise ConfigError(field, rule) from None
    if "@" in (url.host or ""):
        raise ConfigError(field, "must have its password percent-encoded, an @ in it as %40")
    rest = [url.username, url.host, url.database, *(value for _, value in _items(_public(url)))]
    is_file = url.get_backend_name() == "sqlite"
    if not is_file and any(HIDDEN_PASSWORD.search(part or "") for part in rest):
        rule = "must hold its password where it can be left out, as postgresql://user:password@..."
        raise ConfigError(field, rule)
    return url


def public_url(text: str) -> str:
    """Return a database's URL without password, to be written and shown."""
    url = parse_url(text)
    public = _public(url)
    return text if public == url else public.render_as_string(hide_password=False)


def _public(url: URL) -> URL:
    query: dict[str, str | tuple[str, ...]] = {
        key: value for key, value in url.query.items() if not _is_secret(key)
    }
    place = url.host, url.port, url.database
    return URL.create(url.drivername, url.username or None, None, *place, query)


def _is_secret(key: str) -> bool:
    return SECRET_KEYS.search(key) is not None and key.lower() not in HARMLESS_KEYS


def _items(url: URL) -> Iterator[tuple[str, str]]:
    """Yield keys and values of a URL's query; a key may have several values."""
    for key, value in url.query.items():
        for one in (value,) if isinstance(value, str) else value:
            yield key, one


def _secrets(url: URL) -> list[str]:
    values = [value for key, value in _items(url) if _is_secret(key)]
    return [secret for secret in (url.password, *values) if secret]


def complete_url(stored: str, given: str | None = None) -> str:
    """Return the URL to connect with, with the password if the user has given it.

    Args:
        stored: the URL of the run, as a rule without password.
        given: the URL of the command line; None uses CASTLING_STORAGE.

    Raises:
        ConfigError: when the URL of the command line is another database's.
    """
    wanted = _public(parse_url(stored))
    if given is not None:
        url = parse_url(given)
        if _public(url) != wanted:
            rule = f"must be the run's own database, {public_url(stored)}"
            raise ConfigError("storage", rule, public_url(given), "leave it out to resume")
        if _secrets(url):
            return given
    known = os.environ.get(VARIABLE)
    if known and _public(parse_url(known, VARIABLE)) == wanted:
        return known
    return stored


def scrubbed(message: str, text: str) -> str:
    """Return the first line of a message about a URL without the passwords of the URL."""
    line = message.strip().partition("\n")[0]
    for secret in _secrets(parse_url(text)):
        for written in (secret, quote(secret, safe=""), quote_plus(secret), quote(secret)):
            line = line.replace(written, "***")
    return line


def password_hint(text: str) -> str:
    """Return a hint where to put the password; empty if there is none or the URL has it."""
    url = parse_url(text)
    if url.get_backend_name() == "sqlite" or _secrets(url):
        return ""
    places = f"{VARIABLE} to the URL with its password"
    if url.get_backend_name() == "postgresql":
        places += ", PGPASSWORD to the password, or PGPASSFILE to a passfile"
    return f"where the database asks for a password, set {places}"


@contextmanager
def passwords_hidden() -> Iterator[None]:
    """Remove passwords from the environment of processes that are started within a with-block."""
    hidden = {name: os.environ.pop(name) for name in PASSWORD_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def without_passwords(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return the arguments of a command with the password of `--storage` left out, and its URL.

    Without a password the URL is None and the arguments are unchanged.
    """
    option, values, public = "--storage", None, list(arguments)
    for index, argument in enumerate(arguments):
        prefix = f"{option}=" if argument.startswith(f"{option}=") else ""
        if not prefix and (index == 0 or arguments[index - 1] != option):
            continue
        text = argument.removeprefix(prefix)
        try:
            shown = public_url(text)
        except ConfigError:  # the command says what is wrong
            continue
        if shown != text:
            public[index], values = f"{prefix}{shown}", text
    return public, values
