import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from castling.files import append_line, write_bytes, write_text, write_yaml


WRITE_PAST_THE_LIMIT = """
import resource, signal, sys
from pathlib import Path
from castling.files import write_bytes

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with OSError, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    write_bytes(Path(sys.argv[1]), b"n" * int(sys.argv[2]))
except OSError as error:
    print(f"failed: {error.strerror}")
else:
    print("written")
"""


def write_under_limit(path: Path, size: int, limit: int) -> str:
    command = [sys.executable, "-c", WRITE_PAST_THE_LIMIT, str(path), str(size), str(limit)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    assert write_under_limit(path, size=200_000, limit=70_000) == "failed: File too large\n"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    # The same write goes through where it fits: it is the limit that made it fail.
    assert write_under_limit(path, size=200_000, limit=300_000) == "written\n"
    assert path.read_bytes() == b"n" * 200_000
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_between_write_and_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    write_bytes(path, b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_makes_missing_folders_and_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "Grüße\n")
    assert path.read_bytes() == "Grüße\n".encode()
    write_text(path, "")
    assert path.read_bytes() == b""


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_files_have_what_the_umask_leaves(
    mask: int, mode: int, umask: Callable[[int], int], tmp_path: Path
) -> None:
    umask(mask)
    write_bytes(tmp_path / "folder" / "new", b"")
    append_line(tmp_path / "folder" / "curve", "line")
    for path in (tmp_path / "folder").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_a_file_that_is_replaced_keeps_its_mode(
    mode: int, umask: Callable[[int], int], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    for mask in (0o022, 0o077):
        umask(mask)
        write_bytes(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_yaml_keeps_the_order_and_takes_a_head(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    data = {"zebra": [1, 2.5, None], "ant": {"name": "día", "flag": True}}
    write_yaml(path, data, head="made by a test\nsecond line")
    assert yaml.safe_load(path.read_text()) == data
    lines = path.read_text().splitlines()
    assert lines[:3] == ["# made by a test", "# second line", "zebra:"]


def test_a_full_disk_is_reported_with_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device.*curve\.jsonl"):
        append_line(path, "line")
