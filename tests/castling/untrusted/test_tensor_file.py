"""Weights whose header lies, or which hold more than their model, take no memory."""

import json
import os
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import castling
from castling.config import BlockConfig, ModelConfig
from castling.errors import CheckpointError
from castling.model.storage import WEIGHTS_FILE
from castling.untrusted.tensor_file import LARGEST_HEADER, read_tensors


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def tensor(shape: Any, begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def packed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HOSTILE = {
    "length of 2**63": packed({}, length=2**63),
    "length of 2**64 - 1": packed({}, length=2**64 - 1),
    "header longer than the file": packed({}, length=2_000),
    "huge shape": packed({"x": tensor([10**12, 10**12], 0, 4)}, b"\0" * 4),
    "huge shape that overflows": packed({"x": tensor([2**32, 2**32], 0, 0)}),
    "huge end": packed({"x": tensor([2**60], 0, 2**62)}, b"\0" * 4),
    "shape of nothing": packed({"x": tensor([0, 2**62], 0, 4)}, b"\0" * 4),
    "negative shape": packed({"x": tensor([-1, -1], 0, 4)}, b"\0" * 4),
    "negative begin": packed({"x": tensor([1], -4, 4)}, b"\0" * 4),
    "end before begin": packed({"x": tensor([1], 4, 0)}, b"\0" * 4),
    "overlap": packed({"x": tensor([1], 0, 4), "y": tensor([1], 0, 4)}, b"\0" * 4),
    "hole": packed({"x": tensor([1], 4, 8)}, b"\0" * 8),
    "fraction": packed({"x": tensor([1.5], 0, 4)}, b"\0" * 4),
    "switch": packed({"x": tensor([True], 0, 4)}, b"\0" * 4),
    "no offsets": packed({"x": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "unknown type": packed({"x": tensor([1], 0, 4, "PICKLE")}, b"\0" * 4),
    "deep": packed(b"[" * 100_000 + b"]" * 100_000),
    "deep metadata": packed(b'{"__metadata__": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "metadata of numbers": packed({"__metadata__": {"castled": 1}}),
    "list": packed([1]),
    "text": packed("x"),
    "no UTF-8": packed(b"\xff\xfe{}"),
    "huge digits": packed(b'{"x": ' + b"9" * 10_000 + b"}"),
    "large header": packed(b" " * (LARGEST_HEADER + 1)),
    "nothing": b"",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_sentence_and_no_memory(case: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[case])
    before = peak_mib()
    with pytest.raises(CheckpointError, match="truncated or not safetensors") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert peak_mib() - before < 60


def small_model(folder: Path) -> Path:
    """Return the weights file of a saved castled model."""
    config = ModelConfig(embed_width=16, blocks=(BlockConfig(num_heads=2, head_size=8),))
    castling.save(castling.castle(castling.build(config, seed=0)), folder)
    return folder / WEIGHTS_FILE


def test_a_file_of_holes_is_not_read(tmp_path: Path) -> None:
    path = small_model(tmp_path)
    count = 50 * 2**30
    content = packed({"head.weight": tensor([count // 4], 0, count)})
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + count)
    before = peak_mib()
    with pytest.raises(CheckpointError, match=r"its 50\.0 GiB are more than the .* free here"):
        castling.load(tmp_path)
    assert peak_mib() - before < 60


def test_a_file_beyond_this_machine_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_model(tmp_path)
    read_tensors(path)
    monkeypatch.setattr("castling.untrusted.memory.available_bytes", lambda: 100)
    with pytest.raises(CheckpointError, match=r"more than the 0\.0 free here"):
        read_tensors(path)


CHANGES: dict[str, dict[str, torch.Tensor | None]] = {
    "another type": {"head.weight": torch.zeros(10, 16, dtype=torch.float64)},
    "whole numbers": {"head.weight": torch.zeros(10, 16, dtype=torch.int8)},
    "another shape": {"head.weight": torch.zeros(16, 10)},
    "a tensor less": {"head.bias": None},
    "a tensor more": {"extra": torch.zeros(1)},
    "a path": {"../../etc/passwd": torch.zeros(1)},
    "a line": {"a\nTraceback: \x1b[2J": torch.zeros(1)},
    "an attribute": {"__class__": torch.zeros(1)},
}


@pytest.mark.parametrize("case", CHANGES)
def test_weights_unlike_their_models_are_refused(case: str, tmp_path: Path) -> None:
    path = small_model(tmp_path)
    tensors = {**read_tensors(path)[0], **CHANGES[case]}
    save_file({name: value for name, value in tensors.items() if value is not None}, path)
    with pytest.raises(CheckpointError, match="it holds another model") as caught:
        castling.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.yaml", WEIGHTS_FILE}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_tensors(tmp_path / "pipe")
