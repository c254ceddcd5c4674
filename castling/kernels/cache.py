"""The cache folder of compiled libraries, to which no other user may write, nor above it."""

import atexit
import logging
import os
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path

from castling.surroundings import cache_home


_WRITABLE = stat.S_IWGRP | stat.S_IWOTH

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Return `castling` in the user's cache folder, or a temporary one if others may write there.

    A loaded library can do whatever the user can: no other user may be able to put a library into
    the folder or a folder above it.

    Raises:
        OSError: when there is no folder that others cannot write, temporary ones included.
    """
    home = cache_home()
    if home is None:
        return _temporary()
    folder = (home / "castling").resolve()
    try:
        _make(folder)
        problem = _problem(folder)
    except OSError:
        return _temporary()
    if problem:
        _say(f"{folder} is not used for compiled kernels ({problem}): they are compiled anew.")
    return _temporary() if problem else folder


def is_own_file(path: Path) -> bool:
    """Return whether a path is a file, no link, that this user owns and no other may write."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    is_ours = status.st_uid == os.getuid() and not status.st_mode & _WRITABLE
    return stat.S_ISREG(status.st_mode) and is_ours


def _make(path: Path) -> None:
    """Make a folder and those above it, whatever the umask, for this user alone."""
    if not path.exists():
        _make(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _problem(path: Path) -> str:
    """Return why a folder, with its links resolved, is not safe; nothing if it is."""
    status = path.stat()
    if status.st_uid != os.getuid():
        return "it belongs to another user"
    if status.st_mode & _WRITABLE:
        return "others may write it"
    if not os.access(path, os.W_OK):
        return "it cannot be written"
    for above in path.parents:
        status = above.stat()
        if status.st_uid not in {os.getuid(), 0}:
            return f"{above} belongs to another user"
        if status.st_mode & _WRITABLE and not status.st_mode & stat.S_ISVTX:
            return f"others may write {above}"
    return ""


@cache
def _temporary() -> Path:
    """Return a folder that is removed when the process ends."""
    made = Path(tempfile.mkdtemp(prefix="castling-")).resolve()
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    problem = _problem(made)
    if problem:
        raise PermissionError(f"no folder for temporary files is private: {problem}")
    return made


@cache
def _say(line: str) -> None:
    _log.warning(line)
