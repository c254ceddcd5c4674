"""The trials of a run's Optuna study, opened without ever writing: live, read-only or torn."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from castling.errors import RecordError, RunFolderError
from castling.memory import check_fits
from reports.manifest import Manifest
from reports.records import MANIFEST_FILE, STUDY_FILE, STUDY_NAME


if TYPE_CHECKING:
    from sqlalchemy.engine import URL


MALFORMED = (LookupError, TypeError, ValueError, AssertionError, AttributeError, RecursionError)
"""What replaying a journal whose lines are not Optuna's can raise."""


def study_place(run: Path, manifest: Manifest) -> str:
    """Return the journal file or the storage URL, without its password, for use in messages."""
    if manifest.storage is None:
        return str(run / STUDY_FILE)
    return _url(run, manifest).render_as_string(hide_password=True)


def read_trials(run: Path, manifest: Manifest) -> list[FrozenTrial]:
    """Return every trial that a run's study holds at this moment, in the order of their numbers.

    Raises:
        RunFolderError: when the study is missing.
        RecordError: when it cannot be read.
    """
    if manifest.storage is None:
        return _journal_trials(run)
    return _database_trials(run, manifest)


def _journal_trials(run: Path) -> list[FrozenTrial]:
    path = run / STUDY_FILE
    if not path.is_file():  # opening a missing journal would create it
        raise _missing(run, STUDY_FILE)
    check_fits(path)
    try:
        return _all_trials(JournalStorage(JournalFileBackend(str(path))), str(path))
    except OSError as error:
        raise RecordError(str(path), str(error.strerror)) from None
    except RecordError:
        raise
    except MALFORMED as error:
        raise RecordError(str(path), f"it is damaged ({type(error).__name__}: {error})") from None


def _database_trials(run: Path, manifest: Manifest) -> list[FrozenTrial]:
    from sqlalchemy.exc import SQLAlchemyError

    place = study_place(run, manifest)
    try:
        storage = RDBStorage(_read_only_url(run, manifest), skip_table_creation=True)
    except ImportError as error:
        raise RecordError(place, f"{error} pip install 'castling-nas[postgres]'") from None
    except (SQLAlchemyError, OptunaError) as error:
        raise RecordError(place, _first_line(error)) from None
    try:
        return _all_trials(storage, place)
    except (SQLAlchemyError, OptunaError) as error:
        raise RecordError(place, _first_line(error)) from None
    finally:
        storage.engine.dispose()


def _read_only_url(run: Path, manifest: Manifest) -> str:
    """Return the URL as it is, except that SQLite must neither create nor write its file."""
    url = _url(run, manifest)
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        if not path.is_file():
            raise _missing(run, f"{path} (its storage)")
        url = url.set(database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
    return url.render_as_string(hide_password=False)


def _url(run: Path, manifest: Manifest) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(manifest.storage or "")
    except ArgumentError:  # its message would repeat the URL, which may hold a password
        rule = f"has a {MANIFEST_FILE} whose storage is no database URL"
        raise RunFolderError(str(run), rule, "restore it from a copy") from None


def _all_trials(storage: BaseStorage, place: str) -> list[FrozenTrial]:
    try:
        study = storage.get_study_id_from_name(STUDY_NAME)
    except KeyError:
        raise RecordError(place, f"it holds no study named {STUDY_NAME!r}") from None
    return storage.get_all_trials(study, deepcopy=False)


def _missing(run: Path, name: str) -> RunFolderError:
    return RunFolderError(
        str(run), f"has no {name}", "wait for the search to start, or restore the file from a copy"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
