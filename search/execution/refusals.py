"""Why Ray does not start on this machine: the cause in words, and what helps against it."""

import errno
import os
from pathlib import Path

from castling.errors import ClusterError, one_line


LESS_BUSY = "try again when the machine is less busy"
REMEDIES: tuple[tuple[frozenset[int], tuple[str, ...], str], ...] = (
    (
        frozenset({errno.ENOSPC, errno.EDQUOT}),
        ("No space left", "Disk quota"),
        "make room in {folder}, or set TMPDIR to another disk",
    ),
    (
        frozenset({errno.EAGAIN}),
        ("can't start new thread", "Resource temporarily unavailable", "pthread_create"),
        "raise the number of processes that you may have (ulimit -u)",
    ),
    (
        frozenset({errno.EMFILE, errno.ENFILE}),
        ("Too many open files",),
        "raise the number of files that may be open (ulimit -n)",
    ),
    (
        frozenset({errno.ENOMEM}),
        ("Cannot allocate memory", "bad_alloc", "MemoryError", "out of memory"),
        "free some memory, or raise its limit (ulimit -v, or that of the container)",
    ),
    (
        frozenset({errno.EADDRNOTAVAIL}),
        ("Cannot assign requested address",),
        "bring up the loopback interface (ip link set lo up)",
    ),
    (
        frozenset({errno.EACCES, errno.EROFS, errno.EPERM}),
        ("Permission denied", "Read-only file system"),
        "let this user write {folder}, or set TMPDIR to a folder where it can",
    ),
)
"""Error numbers, parts of messages, and the remedy of each cause."""


def refusal(error: BaseException, folder: Path) -> ClusterError:
    """Return the error of a start of Ray that failed.

    Args:
        error: what Ray raised.
        folder: the folder for its files, with its logs.
    """
    reason = one_line(str(error).strip().partition("\n")[0] or type(error).__name__, 300)
    remedy = _remedy(error, folder)
    if remedy is None:
        remedy = f"{LESS_BUSY}; Ray's logs lie in {folder}/session_latest/logs"
    return ClusterError(reason, remedy)


def is_busy(error: BaseException) -> bool:
    """Return whether a second start may succeed: no cause is known but the time it took."""
    return isinstance(error, Exception) and _remedy(error, Path()) is None


def _remedy(error: BaseException, folder: Path) -> str | None:
    if isinstance(error, UnicodeError):
        return "start castling from, and install it in, folders whose names are UTF-8"
    number = error.errno if isinstance(error, OSError) else None
    text = f"{type(error).__name__}: {error}"
    for numbers, parts, remedy in REMEDIES:
        if number in numbers or any(part in text for part in parts):
            return remedy.format(folder=getattr(error, "filename", None) or os.fspath(folder))
    return None
