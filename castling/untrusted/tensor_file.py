"""Safetensors files: written whole or not at all, read once their header has been checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load as parse_tensors, save as pack_tensors
from torch import Tensor

from castling.errors import CheckpointError
from castling.files import write_bytes
from castling.untrusted.memory import shortage
from castling.untrusted.plain_yaml import is_endless


LENGTH_BYTES = 8
"""The first bytes of a file: the length of its header."""
LARGEST_HEADER = 4 * 2**20
"""Largest size of a header in bytes; that of a thousand tensors has 100 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An entry of a header: one tensor."""

    dtype: str
    """safetensors' name: F32, BF16, I64..."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """The header of a safetensors file: its tensors, and the size of their data."""

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
    """Return the header of a safetensors file, checked by safetensors; reads no tensor.

    Raises:
        CheckpointError: when the file is missing, truncated or of another format.
    """
    if is_endless(path):
        raise CheckpointError(str(path), "it is no regular file")
    try:
        length = _header_length(path)
        check_fits(path, path.stat().st_size)  # safetensors maps the whole file
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # the file itself cannot be iterated over
            slices = {name: file.get_slice(name) for name in names}
            tensors = {
                name: TensorInfo(dtype=part.get_dtype(), shape=tuple(part.get_shape()))
                for name, part in slices.items()
            }
            metadata = file.metadata() or {}
        num_bytes = path.stat().st_size - LENGTH_BYTES - length
    except SafetensorError as error:
        raise _broken(path, error) from None
    except OSError as error:
        raise CheckpointError(str(path), f"it cannot be read ({error.strerror})") from None
    return TensorHeader(tensors=tensors, metadata=metadata, num_bytes=num_bytes)


def _header_length(path: Path) -> int:
    """Return the length of a file's header; SafetensorError if it is too long.

    safetensors itself takes headers of 100 MB, and checks everything else that a header says.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > LARGEST_HEADER:
        raise SafetensorError(f"a header of {length:,} bytes")
    return length


def read_tensors(
    path: Path, most_bytes: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a safetensors file.

    Args:
        path: the file.
        most_bytes: largest size of the tensors in a valid file; None if there is no bound.

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
