"""Safetensors files: written whole or not at all, read once their header is found to be true."""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors, save as pack_tensors
from torch import Tensor

from castling.errors import CheckpointError
from castling.files import write_bytes
from castling.memory import shortage
from castling.plain_yaml import is_endless


LARGEST_HEADER = 4 * 2**20
"""Bytes of a header; that of a thousand tensors has 100 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor as a header has it."""

    dtype: str
    """safetensors' name: F32, BF16, I64..."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """What a safetensors file says that it holds, and the bytes that it does hold."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    num_bytes: int
    """Of all tensors together."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and their metadata atomically as safetensors.

    Tensors that share memory, as tied weights do, are written once for each.
    """
    whole: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        whole[name] = plain.clone() if place in places else plain
        places.add(place)
    write_bytes(path, pack_tensors(whole, metadata=dict(metadata)))


def read_header(path: Path) -> TensorHeader:
    """Return the header of a safetensors file, checked against the file's size; reads no tensor.

    Raises:
        CheckpointError: when the file is missing, truncated or of another format.
    """
    if is_endless(path):
        raise CheckpointError(str(path), "it is no regular file")
    try:
        with path.open("rb") as file:
            return _header(file)
    except OSError as error:
        raise CheckpointError(str(path), f"it cannot be read ({error.strerror})") from None
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        struct.error,
        RecursionError,
    ) as error:
        raise _broken(path, error) from None


def _header(file: BinaryIO) -> TensorHeader:
    """Return the header of an open file; KeyError, TypeError, ValueError where it is none."""
    size = os.fstat(file.fileno()).st_size
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(LARGEST_HEADER, size - 8):
        raise ValueError(f"a header of {length:,} bytes")
    header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata that is no text")
    ends = [0, *(_end(info) for info in header.values())]
    if max(ends) != size - 8 - length:
        raise ValueError(f"{size - 8 - length:,} bytes of tensors instead of {max(ends):,}")
    tensors = {
        name: TensorInfo(dtype=str(info["dtype"]), shape=tuple(info["shape"]))
        for name, info in header.items()
    }
    return TensorHeader(tensors=tensors, metadata=metadata, num_bytes=max(ends))


def _end(info: Mapping[str, Any]) -> int:
    """Return where a tensor ends; ValueError where its shape is not of its length."""
    begin, end = info["data_offsets"]
    counts = [begin, end, *info["shape"]]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("shapes and offsets that are no counts")
    numbers, length = math.prod(info["shape"]), end - begin
    if (length > 0) != (numbers > 0) or length > 16 * numbers or numbers > 8 * length:
        raise ValueError(f"{length:,} bytes for a tensor of the shape {info['shape']}")
    return int(end)


def read_tensors(
    path: Path, most_bytes: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file.

    Args:
        path: the file.
        most_bytes: what the tensors of a true file have at most, where that is known.

    Raises:
        CheckpointError: when the file is missing, truncated, of another format, or holds more
            than it may or than this machine has memory for.
    """
    header = read_header(path)
    if most_bytes is not None and header.num_bytes > most_bytes:
        reason = f"it holds another model ({header.num_bytes:,} bytes, at most {most_bytes:,})"
        raise CheckpointError(str(path), reason)
    check_fits(path, header.num_bytes)
    try:
        return parse_tensors(path.read_bytes()), dict(header.metadata)
    except OSError as error:
        raise CheckpointError(str(path), f"it cannot be read ({error.strerror})") from None
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _broken(path, error) from None


def check_fits(path: Path, num_bytes: int) -> None:
    """Raise CheckpointError when a file's content is more than this machine's free memory."""
    reason = shortage(num_bytes)
    if reason is not None:
        raise CheckpointError(str(path), reason)


def _broken(path: Path, error: Exception) -> CheckpointError:
    said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
    return CheckpointError(str(path), f"it is truncated or not safetensors ({said[:200]})")


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
