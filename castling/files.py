"""Files that are either whole or absent: written beside their place, flushed, renamed."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """Replace a file atomically; a crash or a full disk leaves the old file, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with _named(path), os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_bytes(path, text.encode())


def write_yaml(path: Path, data: Mapping[str, Any], head: str = "") -> None:
    """Replace a YAML file atomically; `head` is written above the data as comments."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    write_text(path, comment + yaml.safe_dump(dict(data), sort_keys=False, width=99))


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, on a line of its own even where a crash tore the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _named(path), path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = f"\n{line}"
        file.write(f"{line}\n".encode())
