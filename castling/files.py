"""Atomic files: written under a temporary name in the same folder, flushed, renamed."""

import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give the file's name to an OSError without one: the kernel names it only on opening."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically; a crash or a full disk leaves the old file, never half of one.

    A new file has the permissions that the umask allows; a replaced file keeps its permissions.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = _made(temporary, path)
    try:
        with _named(path), os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _made(path: Path, replaced: Path) -> int:
    """Make a file and return its descriptor; its permissions are those of the one it replaces."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        mode = stat.S_IMODE(replaced.stat().st_mode)
    except OSError:  # there is none
        return os.open(path, flags, 0o666)
    handle = os.open(path, flags, mode)
    with suppress(OSError):  # some disks have no permissions
        os.fchmod(handle, mode)  # the umask may have taken some
    return handle


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_bytes(path, text.encode())


def write_yaml(path: Path, data: Mapping[str, Any], head: str = "") -> None:
    """Replace a YAML file atomically; `head` is written above the data as comments."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    write_text(path, comment + yaml.safe_dump(dict(data), sort_keys=False, width=99))


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; starts a new line if a crash left the last one unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path), path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = f"\n{line}"
        file.write(f"{line}\n".encode())
