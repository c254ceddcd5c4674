"""Reads the trials of a run's Optuna study, also a live, read-only or unfinished one."""

from pathlib import Path
from urllib.parse import quote

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from castling.errors import ConfigError, RecordError, RunFolderError
from castling.untrusted.memory import check_fits
from reports.database import complete_url, parse_url, password_hint, public_url, scrubbed
from reports.manifest import Manifest
from reports.records import MANIFEST_FILE, STUDY_FILE, STUDY_NAME


MALFORMED = (LookupError, TypeError, ValueError, AssertionError, AttributeError, RecursionError)
"""Errors of replaying a journal whose lines are not Optuna's."""


def study_place(run: Path, manifest: Manifest) -> str:
    """Return the journal file or the storage URL, without its password, for use in messages."""
    if manifest.storage is None:
        return str(run / STUDY_FILE)
    _check_url(run, manifest.storage)
    return public_url(manifest.storage)


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

    stored, place = manifest.storage or "", study_place(run, manifest)
    url = complete_url(stored)
    try:
        storage = RDBStorage(_read_only(run, url), skip_table_creation=True)
    except ImportError as error:
        raise RecordError(place, f"{error} pip install 'castling-nas[postgres]'") from None
    except (SQLAlchemyError, OptunaError) as error:
        raise _unreadable(place, error, url) from None
    try:
        return _all_trials(storage, place)
    except (SQLAlchemyError, OptunaError) as error:
        raise _unreadable(place, error, url) from None
    finally:
        storage.engine.dispose()


def _unreadable(place: str, error: Exception, url: str) -> RecordError:
    hint = password_hint(url)
    reason = scrubbed(str(error.__cause__ or error), url)
    return RecordError(place, f"{reason}; {hint}" if hint else reason)


def _read_only(run: Path, text: str) -> str:
    """Return the URL; SQLite is opened read-only, so that it creates no file."""
    url = parse_url(text)
    if url.get_backend_name() != "sqlite":
        return text
    path = Path(url.database or "")
    if not path.is_file():
        raise _missing(run, f"{path} (its storage)")
    url = url.set(database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
    return url.render_as_string(hide_password=False)


def _check_url(run: Path, text: str) -> None:
    try:
        parse_url(text)
    except ConfigError as error:  # it does not repeat the URL, which may hold a password
        rule = f"has a {MANIFEST_FILE} whose storage is no database URL ({error.rule})"
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
