import os
import socket
import stat
from pathlib import Path

import pytest

from castling import scratch
from castling.scratch import scratch_folder


OWN = f"castling-{os.getuid()}"


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only the folders that a test names."""
    for name in (*scratch.VARIABLES, "XDG_RUNTIME_DIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(scratch, "FOLDERS", ())


def test_a_folder_that_nobody_else_may_enter_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = scratch_folder()
    assert folder == scratch_folder() == tmp_path / OWN
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert stat.S_IMODE(scratch_folder().stat().st_mode) == 0o700
    assert not list(folder.iterdir())


def test_a_name_that_leads_elsewhere_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / OWN).symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = scratch_folder()
    assert folder.parent == tmp_path
    assert folder != tmp_path / OWN
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_next_folder_is_used_where_one_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, file = tmp_path / ("x" * 90), tmp_path / "file"
    long.mkdir()
    file.touch()
    (unknown := tmp_path / os.fsdecode(b"\xff")).mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(file))
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setenv("TEMP", str(unknown))
    monkeypatch.setenv("TMP", str(tmp_path / "absent"))
    with pytest.raises(OSError, match="no folder for temporary files can be used") as caught:
        scratch_folder("RAY_TMPDIR", socket_name="s")
    reasons = str(caught.value).split("; ")
    words = ("Not a dir", "too long", "utf-8", "No such file")
    for part, word in zip(reasons, words, strict=True):
        assert word in part
    assert scratch_folder() == long / OWN  # long enough without sockets


def test_sockets_fit_where_a_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "FOLDERS", ("/tmp",))
    name = "s" * (scratch.LONGEST_SOCKET - len(f"/tmp/{OWN}/"))
    path = scratch_folder(socket_name=name) / name
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.unlink()
    with pytest.raises(OSError, match="too long for sockets"):
        scratch_folder(socket_name=f"{name}s")


def test_a_full_disk_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(scratch, "LEAST_FREE", 2**62)
    with pytest.raises(OSError, match="MiB are free"):
        scratch_folder()
