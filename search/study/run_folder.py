"""The run folder for its writer: creates it, locks it, writes its manifest."""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage

from castling.errors import RunFolderError
from castling.training.data import TrainingData
from castling.training.fingerprint import changed, fingerprints
from reports.database import public_url
from reports.manifest import Manifest
from reports.records import CURVES_FOLDER, LOCK_FILE, STUDY_NAME
from reports.study import study_place
from search.context import SearchContext
from search.study.storage import STORAGE_ERRORS


PACKAGES = ("castling-nas", "torch", "timm", "optuna", "ray", "fvcore", "numpy")
"""Packages whose versions influence the results; they are recorded."""


LOOK_SECONDS = 0.3
"""How long to wait for a lock: `castling status` holds it for an instant to look at it."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock a run folder; the lock ends with the process, however it ends.

    Raises:
        RunFolderError: when another driver holds it.
    """
    lock = FileLock(run / LOCK_FILE)
    try:
        lock.acquire(timeout=LOOK_SECONDS, poll_interval=0.02)
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


def new_manifest(
    context: SearchContext, storage: str | None, data: TrainingData | None = None
) -> Manifest:
    """Return the manifest of a new run; data are the images that all its trials share."""
    return Manifest(
        recipe=context.config.to_data(),
        space=context.space.to_data(),
        budget=context.budget,
        objectives=context.objectives,
        reference=dict(context.reference),
        storage=None if storage is None else public_url(storage),
        versions={"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        git_commit=_git_commit(),
        created_at=datetime.now(UTC),
        preprocessing=None if data is None else data.preprocessing,
        images={} if data is None else fingerprints(data),
    )


def check_images(run: Path, manifest: Manifest, data: TrainingData) -> None:
    """Raise RunFolderError when the images are not those that the run began with."""
    difference = changed(manifest.images, fingerprints(data))
    if difference:
        fix = "restore the images, or choose another --out for a new search"
        raise RunFolderError(str(run), difference, fix)


def check_not_lost(run: Path, manifest: Manifest, storage: BaseStorage) -> None:
    """Raise RunFolderError when trials were trained but their study is gone.

    A run whose driver died before it made the study has trained nothing, and begins anew.
    """
    curves = run / CURVES_FOLDER
    known = any(study.study_name == STUDY_NAME for study in storage.get_all_studies())
    if not known and curves.is_dir() and any(curves.iterdir()):
        rule = f"has trained trials, but no study in {study_place(run, manifest)}"
        raise RunFolderError(str(run), rule, "restore it from a copy, or choose another --out")


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
