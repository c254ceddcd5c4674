"""Checkpoints as timm writes them, read as data from anywhere: nothing in them is executed."""

import pickle
import warnings
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor

from castling.errors import CheckpointError
from castling.model.timm_models import first_line
from castling.untrusted.tensor_file import check_fits, read_header


_UNREADABLE = (
    OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError,
    pickle.PickleError, SafetensorError, BadZipFile, MemoryError, AssertionError,
)  # fmt: skip
"""Errors of torch, safetensors and timm for files that are no checkpoint."""


def read_timm_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint as timm writes it; nothing in it is executed.

    Raises:
        CheckpointError: when the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise CheckpointError(str(path), "there is no such file")
    try:
        _check_plain(path)
        with warnings.catch_warnings():  # on pickles of odd forms: what matters is the outcome
            warnings.simplefilter("ignore")
            tensors = load_state_dict(str(path), device="cpu", weights_only=True)
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        reason = f"it is truncated or no checkpoint ({first_line(error)})"
        raise CheckpointError(str(path), reason) from None
    held = path.stat().st_size
    if not tensors or not all(_is_whole(tensor, held) for tensor in tensors.values()):
        raise CheckpointError(str(path), "it is no checkpoint of a model")
    return tensors


def _check_plain(path: Path) -> None:
    """Raise CheckpointError for files that would take more memory than they have bytes.

    torch writes uncompressed entries: compressed ones come from another program.
    """
    if path.suffix == ".safetensors":
        check_fits(path, read_header(path).num_bytes)
        return
    check_fits(path, path.stat().st_size)
    if is_zipfile(path):
        with ZipFile(path) as archive:
            if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(str(path), "it is compressed, as torch writes no checkpoint")


def _is_whole(tensor: object, held: int) -> bool:
    """Return whether something is a tensor whose every number is among the bytes of a file."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        return False
    num_bytes = tensor.numel() * tensor.element_size()
    return num_bytes <= min(held, tensor.untyped_storage().nbytes())
