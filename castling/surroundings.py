"""The user's home, name and caches, and what replaces those that a process lacks."""

import getpass
import os
import tempfile
from pathlib import Path

from castling.scratch import scratch_folder


CACHES = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "MPLCONFIGDIR": "matplotlib",
}
"""Environment variables of libraries, and the folder of each where the home cannot be written."""


def cache_home() -> Path | None:
    """Return the folder of the user's caches, which need not exist; None without a home."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    home = _home()
    return None if home is None else home / ".cache"


def complete_environment() -> None:
    """Give this process, and those that it starts, a user name, a home and writable caches.

    Containers and batch systems run programs as users without a name or home, or with one that
    cannot be written; libraries raise an error for each of these while they are imported. Only
    what is missing is set. Where not even a folder for temporary files can be used, nothing is.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    home = _home()
    if home is not None and _is_writable(home):
        return
    try:
        scratch = scratch_folder()
    except OSError:
        return
    if home is None:
        os.environ["HOME"] = str(scratch)
    for variable, name in CACHES.items():
        os.environ.setdefault(variable, str(scratch / name))


def _is_writable(folder: Path) -> bool:
    """Return whether a file can be written; permissions do not say so to root, or on all disks."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _home() -> Path | None:
    """Return the user's home, if one is named and exists; it is not ours to make."""
    try:
        home = Path.home()
        return home if home.is_dir() else None
    except (RuntimeError, OSError):
        return None
