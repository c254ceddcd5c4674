import ctypes
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from castling.kernels import cache, compiler


NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    def forget() -> None:
        compiler.load_library.cache_clear()
        compiler._compiler.cache_clear()
        cache._say.cache_clear()
        cache._temporary.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "answer.c"
    file.write_text("int answer(void) { return SIZE; }\n")
    return file


def _answer(library: ctypes.CDLL | None) -> int:
    assert library is not None
    return int(library.answer())


def test_library_is_compiled_once_for_its_sizes(source: Path, tmp_path: Path) -> None:
    assert _answer(compiler.load_library(source, size=42)) == 42
    assert _answer(compiler.load_library(source, size=43)) == 43
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "castling").iterdir()}
    assert len(made) == 2
    compiler.load_library.cache_clear()
    assert _answer(compiler.load_library(source, size=42)) == 42
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_changed_source_is_compiled_anew(source: Path) -> None:
    assert _answer(compiler.load_library(source, size=1)) == 1
    compiler.load_library.cache_clear()
    source.write_text("int answer(void) { return 2 * SIZE; }\n")
    assert _answer(compiler.load_library(source, size=1)) == 2


def test_damaged_library_is_compiled_anew(source: Path, tmp_path: Path) -> None:
    compiler.load_library(source, size=3)
    [made] = (tmp_path / "cache" / "castling").iterdir()
    made.unlink()  # a library that is loaded must not be written into
    made.write_bytes(b"not a library")
    compiler.load_library.cache_clear()
    assert _answer(compiler.load_library(source, size=3)) == 3


def test_without_a_compiler_there_is_no_library(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert compiler.load_library(source, size=1) is None
    assert "No C compiler" in caplog.text


def test_what_does_not_compile_is_said_and_left(
    source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source.write_text("this is no C\n")
    with caplog.at_level(logging.WARNING):
        assert compiler.load_library(source, size=1) is None
    assert "answer.c could not be compiled" in caplog.text


def test_it_can_be_switched_off(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiler.SWITCH, "0")
    assert compiler.load_library(source, size=1) is None


def test_cache_that_cannot_be_made_is_replaced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _answer(compiler.load_library(source, size=7)) == 7


def _script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize("hangs", ["--version", "*answer.c*"])
def test_a_compiler_that_hangs_is_waited_for_once(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hangs: str,
) -> None:
    """Its time ends with it and what it started, which would hold its output open."""
    tried = tmp_path / "tried"
    monkeypatch.setenv(
        "CC",
        _script(
            tmp_path / "slow",
            f'case "$*" in {hangs}) echo try >> {tried}; sleep 1000;; esac; echo slow 1.0',
        ),
    )
    monkeypatch.setattr(compiler, "VERSION_SECONDS", 0.5)
    monkeypatch.setattr(compiler, "COMPILE_SECONDS", 0.5)
    with caplog.at_level(logging.WARNING):
        assert compiler.load_library(source, size=1) is None
        assert compiler.load_library(source, size=2) is None
    assert len(caplog.records) == 1
    assert "timed out" in caplog.text
    assert tried.read_text() == "try\n"


def _is_kept(source: Path, folder: Path) -> bool:
    compiler.load_library.cache_clear()
    assert _answer(compiler.load_library(source, size=5)) == 5
    return folder.is_dir() and any(folder.glob("*.so"))


@pytest.mark.parametrize(
    ("mode", "is_kept"), [(0o755, True), (0o775, False), (0o707, False), (0o1777, False)]
)
def test_a_folder_that_others_may_write_is_not_used(
    source: Path, tmp_path: Path, mode: int, is_kept: bool
) -> None:
    folder = tmp_path / "cache" / "castling"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert _is_kept(source, folder) == is_kept


@pytest.mark.parametrize(
    ("mode", "is_kept"), [(0o755, True), (0o1777, True), (0o777, False), (0o770, False)]
)
def test_nor_one_below_such_a_folder(
    source: Path,
    tmp_path: Path,
    mode: int,
    is_kept: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever may write a folder may put another in the place of one that is in it."""
    above = tmp_path / "cache"
    above.mkdir()
    above.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert _is_kept(source, above / "castling") == is_kept
    assert ("others may write" in caplog.text) == (not is_kept)


def test_nor_where_a_link_leads_to_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "open" / "castling").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "cache").symlink_to(tmp_path / "open")
    assert not _is_kept(source, tmp_path / "open" / "castling")


@NEEDS_ROOT
@pytest.mark.parametrize("which", ["cache", "cache/castling"])
def test_nor_one_of_another_user(source: Path, tmp_path: Path, which: str) -> None:
    folder = tmp_path / "cache" / "castling"
    folder.mkdir(parents=True)
    os.chown(tmp_path / which, 12345, 12345)
    assert not _is_kept(source, folder)


def test_without_a_private_folder_there_is_no_library(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert compiler.load_library(source, size=1) is None
    assert "no folder for temporary files is private" in caplog.text


def test_folders_are_made_for_this_user_alone(source: Path, tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        assert _is_kept(source, tmp_path / "cache" / "castling")
        assert _is_kept(source, tmp_path / "cache" / "castling")
    finally:
        os.umask(before)
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.stat().st_mode & 0o077


@pytest.mark.parametrize(
    "planted",
    ["writable", "link", pytest.param("of another user", marks=NEEDS_ROOT), "folder"],
)
def test_a_library_that_another_may_have_put_there_is_not_loaded(
    source: Path, tmp_path: Path, planted: str
) -> None:
    right = source.read_text()
    source.write_text(right.replace("SIZE", "SIZE + 1"))
    assert _answer(compiler.load_library(source, size=6)) == 7
    [changed] = (tmp_path / "cache" / "castling").iterdir()
    other = Path(shutil.move(changed, tmp_path / "planted.so"))
    source.write_text(right)
    found = compiler._compiler(os.environ.get("CC", "cc"))
    assert found is not None
    digest = compiler._digest(source, found, ["-DSIZE=6"])
    made = changed.with_name(f"answer-{digest}.so")  # of a name that was never loaded
    match planted:
        case "writable":
            shutil.copy(other, made)
            made.chmod(0o722)
        case "link":
            made.symlink_to(other)
        case "of another user":
            shutil.copy(other, made)
            os.chown(made, 12345, 12345)
        case "folder":
            made.mkdir()
    compiler.load_library.cache_clear()
    answer = compiler.load_library(source, size=6)
    assert answer is None if planted == "folder" else _answer(answer) == 6


def test_more_flags_make_another_library(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.write_text("#ifdef MORE\nint answer(void) { return 1; }\n#else\n" + source.read_text())
    source.write_text(source.read_text() + "#endif\n")
    assert _answer(compiler.load_library(source, size=6)) == 6
    compiler.load_library.cache_clear()
    monkeypatch.setenv(compiler.FLAGS, "-DMORE -g")
    assert _answer(compiler.load_library(source, size=6)) == 1
