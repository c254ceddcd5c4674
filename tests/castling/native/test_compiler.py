import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from castling.native import compiler


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    compiler.load_library.cache_clear()
    yield
    compiler.load_library.cache_clear()


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
