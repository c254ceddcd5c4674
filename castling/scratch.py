"""A folder for temporary files of this user alone, where a process has no better place."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


VARIABLES = ("TMPDIR", "TEMP", "TMP")
"""Environment variables that name a folder for temporary files, as Python reads them."""
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders for temporary files of most systems."""
LEAST_FREE = 32 * 2**20
"""Bytes that must be free in a folder: logs and checkpoints of a small search take that."""
LONGEST_SOCKET = 107
"""Bytes in the path of a Unix socket on Linux."""


def candidates(*variables: str) -> Iterator[Path]:
    """Yield the folders for temporary files, in the order in which they are tried.

    Args:
        variables: environment variables beside the usual, tried before these.
    """
    for name in (*variables, *VARIABLES):
        if os.environ.get(name):
            yield Path(os.environ[name])
    yield from map(Path, FOLDERS)
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(os.environ["XDG_RUNTIME_DIR"])


def scratch_folder(*variables: str, socket_name: str | None = None) -> Path:
    """Return a folder that this user can write and no other may enter.

    It is `castling-` and the user's number in the first folder for temporary files that can be
    written and has room, and stays there; where somebody else has that name, a new folder.

    Args:
        variables: environment variables beside TMPDIR that name folders, tried before it.
        socket_name: the longest path within the folder at which a Unix socket must fit.

    Raises:
        OSError: when there is none, with the reason for each.
    """
    reasons = []
    for base in dict.fromkeys(candidates(*variables)):
        try:
            folder = _private(base.absolute())
            _check(folder, socket_name)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            reasons.append(f"{base}: {reason}")
        else:
            return folder
    raise OSError(f"no folder for temporary files can be used: {'; '.join(reasons)}")


def _private(base: Path) -> Path:
    folder = base / f"castling-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
        if stat.S_IMODE(status.st_mode) & 0o077:
            with suppress(OSError):  # some disks have no permissions
                folder.chmod(0o700)
            status = folder.lstat()
        if not stat.S_IMODE(status.st_mode) & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="castling-", dir=base))


def _check(folder: Path, socket_name: str | None) -> None:
    """Raise OSError or ValueError when the folder is of no use."""
    os.fsencode(folder).decode()  # libraries in C++ and JSON take UTF-8 only
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_FREE:
        raise OSError(f"only {free / 2**20:.0f} MiB are free")
    handle, probe = tempfile.mkstemp(dir=folder)
    os.close(handle)
    Path(probe).unlink()
    if socket_name is not None:
        most = LONGEST_SOCKET - len(os.fsencode(socket_name)) - 1
        if len(os.fsencode(folder)) > most:
            raise OSError(f"its path is too long for sockets, of {most} bytes at most")
        with socket.socket(socket.AF_UNIX) as listener:  # some disks have no sockets
            listener.bind(probe)
        Path(probe).unlink()
