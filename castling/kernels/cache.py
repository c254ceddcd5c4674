"""The cache folder of compiled libraries, to which no other user may write, nor above it."""

import atexit
import logging
import os
import shutil
import stat
import tempfile
from functools import cache
from pathlib import Path


_WRITABLE = stat.S_IWGRP | stat.S_IWOTH

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Return `castling` in the user's cache folder, or a temporary one if others may write there.

    A loaded library can do whatever the user can: no other user may be able to put a library into
    the folder or a folder above it.

    Raises:
        OSError: when there is no folder that others cannot write, temporary ones included.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    kept = (home / "castling").resolve()
    try:
        _make(kept)
        objection = _objection(kept)
    except OSError:
        return _temporary()
    if objection:
        _say(f"{kept} is not used for compiled kernels ({objection}): they are compiled anew.")
    return _temporary() if objection else kept


def is_own_file(path: Path) -> bool:
    """Return whether a path is a file, no link, that this user owns and no other may write."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    own = found.st_uid == os.getuid() and not found.st_mode & _WRITABLE
    return stat.S_ISREG(found.st_mode) and own


def _make(path: Path) -> None:
    """Make a folder and those above it, whatever the umask, for this user alone."""
    if not path.exists():
        _make(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _objection(path: Path) -> str:
    """Return why a folder, with its links resolved, is not safe; nothing if it is."""
    found = path.stat()
    if found.st_uid != os.getuid():
        return "it belongs to another user"
    if found.st_mode & _WRITABLE:
        return "others may write it"
    if not os.access(path, os.W_OK):
        return "it cannot be written"
    for above in path.parents:
        found = above.stat()
        if found.st_uid not in {os.getuid(), 0}:
            return f"{above} belongs to another user"
        if found.st_mode & _WRITABLE and not found.st_mode & stat.S_ISVTX:
            return f"others may write {above}"
    return ""


@cache
def _temporary() -> Path:
    """Return a folder that is removed when the process ends."""
    made = Path(tempfile.mkdtemp(prefix="castling-")).resolve()
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    objection = _objection(made)
    if objection:
        raise PermissionError(f"no folder for temporary files is private: {objection}")
    return made


@cache
def _say(line: str) -> None:
    _log.warning(line)
