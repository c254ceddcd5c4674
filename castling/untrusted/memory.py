"""Free memory of this machine, checked before a model or a file takes it."""

import os
from pathlib import Path

from castling.errors import RecordError


MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux bounds the memory of a container, in its second version."""


def available_bytes() -> int:
    """Return the bytes that a process may still allocate; without Linux all memory."""
    limits = [_of_container(), _of_machine()]
    return min(max(0, count) for count in limits if count is not None)


def shortage(num_bytes: int) -> str | None:
    """Return why so many bytes are too many for this machine, or None when they fit."""
    free = available_bytes()
    if num_bytes <= free:
        return None
    return f"its {num_bytes / 2**30:.1f} GiB are more than the {free / 2**30:.1f} free here"


def check_fits(path: Path) -> None:
    """Raise RecordError when a file, if it exists, is more than this machine's free memory."""
    reason = shortage(path.stat().st_size) if path.exists() else None
    if reason is not None:
        raise RecordError(str(path), reason)


def _of_machine() -> int:
    try:
        for line in MEMINFO.read_text().splitlines():
            name, _, amount = line.partition(":")
            if name == "MemAvailable":
                return int(amount.split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        pass  # no Linux: all that is built in
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_container() -> int | None:
    try:
        limit = (CONTAINER / "memory.max").read_text()
        used = (CONTAINER / "memory.current").read_text()
        return int(limit) - int(used)
    except (OSError, ValueError):  # none, or `max`
        return None
