"""What kernels are given: which tensors they take, and their addresses and strides."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


LARGEST_SIZE = 256
"""Channels per head; blocks of this many squared lie on the stack."""
NUMBERS_PER_THREAD = 1 << 16
"""Fewer numbers of q and v than this are not worth a thread."""


def fit(*tensors: Tensor | None) -> bool:
    """Return whether a kernel may take tensors (..., size): float32 on the CPU, sizes of heads.

    What traces, exports, compiles or counts operations must see torch's own instead.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_watched():
        return False
    return of_its_kind(*tensors)


def of_its_kind(*tensors: Tensor | None) -> bool:
    """Return whether tensors are float32 on the CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in given)


def sizes_fit(*sizes: int) -> bool:
    """Return whether kernels can be compiled for heads of so many channels."""
    return all(size % 4 == 0 and 4 <= size <= LARGEST_SIZE for size in sizes)


def _is_watched() -> bool:
    """Return whether a dispatch mode or a function transform wants to see every operation."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()  # noqa: SLF001


def in_rows(x: Any) -> Any:
    """Return a tensor, or None, whose rows are contiguous and apart from one another."""
    if x is None or (x.stride(-1) == 1 and 0 not in x.stride()):
        return x
    return x.contiguous()


def num_threads(q: Tensor, v: Tensor) -> int:
    """Return how many threads are worth starting; every one takes whole heads of images."""
    return max(1, min(torch.get_num_threads(), (q.numel() + v.numel()) // NUMBERS_PER_THREAD))


def tensors(given: Sequence[Tensor | None]) -> Any:
    """Return each tensor's address and its strides of image, head and token."""
    numbers: list[int] = []
    for tensor in given:
        numbers += (0, 0, 0, 0) if tensor is None else (tensor.data_ptr(), *tensor.stride()[:3])
    return integers(*numbers)


def integers(*numbers: int) -> Any:
    """Return numbers as an array of C's."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Return the address of a contiguous tensor."""
    return ctypes.c_void_p(tensor.data_ptr())
