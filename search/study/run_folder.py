"""A run folder from the writer's side: made, locked against a second driver, reopened, mended."""

import errno
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from castling.errors import (
    CastlingError,
    ConfigError,
    RecordError,
    RunFolderError,
    StorageError,
)
from castling.untrusted.memory import check_fits
from reports.database import parse_url, password_hint, public_url, scrubbed
from reports.manifest import Manifest
from reports.records import CURVES_FOLDER, LOCK_FILE, STUDY_FILE, STUDY_NAME, Objective
from reports.study import MALFORMED, study_place
from search.config import SearchConfig
from search.objectives import DIRECTIONS, reference_point
from space.point import Space


PACKAGES = ("castling-nas", "torch", "timm", "optuna", "ray", "fvcore", "numpy")
"""Whose versions decide a search's results, and are recorded."""

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
"""What ends the whole search instead of one trial: the fault is the disk's."""


@contextmanager
def storage_checked(run: Path, url: str | None = None) -> Iterator[None]:
    """Turn what a full or broken disk, or the database of a URL, raises into a StorageError."""
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


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder against other drivers; the lock goes with the process, however it ends.

    Raises:
        RunFolderError: when another driver holds it.
    """
    lock = FileLock(run / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            str(run), "is in use by another search", "wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


def make_run_folder(run: Path) -> None:
    """Make an empty run folder; RunFolderError when the place is taken or impossible."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        in_use = any(entry.name != LOCK_FILE for entry in run.iterdir())
    except FileExistsError:
        raise RunFolderError(
            str(run), "must be a folder, is a file", "choose another --out"
        ) from None
    except OSError as error:
        if error.errno in STORAGE_ERRORS:
            raise
        rule = f"cannot be made ({error.strerror})"
        raise RunFolderError(str(run), rule, "choose another --out") from None
    if in_use:
        raise RunFolderError(
            str(run),
            "is not empty",
            "add --resume to go on with a search, or choose another --out",
        )


def new_manifest(config: SearchConfig, space: Space, storage: str | None) -> Manifest:
    """Return what a new run's config.yaml says."""
    return Manifest(
        recipe=config.to_data(),
        space=space.to_data(),
        budget=config.budget,
        objectives=config.objectives,
        reference=dict(reference_point(space, config.budget, config.objectives)),
        storage=None if storage is None else public_url(storage),
        versions={"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        git_commit=_git_commit(),
        created_at=datetime.now(UTC),
    )


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
        _drop_torn_line(path)
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


def check_not_lost(run: Path, manifest: Manifest, storage: BaseStorage) -> None:
    """Raise RunFolderError when trials were trained but their study is gone.

    A run whose driver died before it made the study has trained nothing, and begins anew.
    """
    curves = run / CURVES_FOLDER
    known = any(study.study_name == STUDY_NAME for study in storage.get_all_studies())
    if not known and curves.is_dir() and any(curves.iterdir()):
        rule = f"has trained trials, but no study in {study_place(run, manifest)}"
        raise RunFolderError(str(run), rule, "restore it from a copy, or choose another --out")


def open_study(storage: BaseStorage, objectives: Sequence[Objective]) -> optuna.Study:
    """Open or make the study in a storage; the caller holds the run folder's lock."""
    return optuna.create_study(
        storage=storage,
        study_name=STUDY_NAME,
        directions=[DIRECTIONS[goal.direction] for goal in objectives],
        load_if_exists=True,
    )


class _DriverLock(JournalFileOpenLock):
    """The driver holds the whole run folder, so the journal needs no lock that a crash leaves."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


def _drop_torn_line(path: Path) -> None:
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


def _git_commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
