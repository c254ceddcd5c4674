"""Where a run's study is stored: the journal in its folder, or a database."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from castling.errors import CastlingError, ConfigError, RecordError, StorageError
from castling.untrusted.memory import check_fits
from reports.database import parse_url, password_hint, scrubbed
from reports.records import STUDY_FILE, STUDY_NAME, Objective
from reports.study import MALFORMED
from search.objectives import DIRECTIONS


STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
"""Errors of the disk: they end the whole search instead of one trial."""


@contextmanager
def storage_checked(run: Path, url: str | None = None) -> Iterator[None]:
    """Turn errors of a full or broken disk, or of the database of a URL, into a StorageError."""
    try:
        yield
    except CastlingError:
        raise
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        raise StorageError(str(run), str(error.strerror)) from None
    except (StorageInternalError, SQLAlchemyError) as error:
        said = str(error.__cause__ or error)
        reason = said.strip().partition("\n")[0] if url is None else scrubbed(said, url)
        raise StorageError(f"the database of {run}", reason) from None


def open_storage(run: Path, url: str | None) -> BaseStorage:
    """Open the storage of a run's study: the journal in its folder, or a database.

    Raises:
        ConfigError: when a URL cannot be opened.
        RecordError: when the journal is damaged, or larger than memory.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        path = run / STUDY_FILE
        check_fits(path)
        _drop_unfinished_line(path)
        try:
            return JournalStorage(JournalFileBackend(str(path), lock_obj=_DriverLock(str(path))))
        except MALFORMED as error:
            reason = f"it is damaged ({type(error).__name__}: {error})"
            raise RecordError(str(path), reason) from None
    parse_url(url)
    try:
        return RDBStorage(url)
    except Exception as error:  # noqa: BLE001 - SQLAlchemy's and every database driver's own
        rule = f"must be the URL of a database that opens ({scrubbed(str(error), url)})"
        raise ConfigError("storage", rule, fix=password_hint(url)) from None


def check_unused(storage: BaseStorage) -> None:
    """Raise ConfigError when a database holds a study of another run."""
    if any(study.study_name == STUDY_NAME for study in storage.get_all_studies()):
        raise ConfigError(
            "storage", "must be a database without a study", fix="give each run its own database"
        )


def open_study(storage: BaseStorage, objectives: Sequence[Objective]) -> optuna.Study:
    """Open or make the study in a storage; the caller holds the run folder's lock."""
    return optuna.create_study(
        storage=storage,
        study_name=STUDY_NAME,
        directions=[DIRECTIONS[goal.direction] for goal in objectives],
        load_if_exists=True,
    )


class _DriverLock(JournalFileOpenLock):
    """No lock: the driver has locked the whole run folder, and a crash would leave the lock."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def _drop_unfinished_line(path: Path) -> None:
    """Cut off a last line that a crash or a full disk left unfinished."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:
            file.seek(keep - 1)
            if file.read(1) == b"\n":
                break
            keep -= 1
        if keep < size:
            file.truncate(keep)
