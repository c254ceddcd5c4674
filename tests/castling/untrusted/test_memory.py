from pathlib import Path

import pytest

from castling.untrusted import memory


def test_some_memory_is_left() -> None:
    assert 2**20 < memory.available_bytes() < 2**60


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [("max", "5000", 3072), ("2048", "1024", 1024), ("1024", "2048", 0), ("9999999", "1", 3072)],
)
def test_the_tightest_bound_counts(
    limit: str, used: str, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:       3 kB\n")
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.available_bytes() == left


def test_another_system_has_what_is_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    assert memory.available_bytes() > 2**20
