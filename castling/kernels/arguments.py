"""Arguments of kernels: which tensors they accept, and their addresses and strides."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from castling.errors import ConfigError


LARGEST_SIZE = 256
"""Channels per head; blocks of this many squared lie on the stack."""
NUMBERS_PER_THREAD = 1 << 16
"""Minimum size of q and v per thread."""


def fit(*tensors: Tensor | None) -> bool:
    """Return whether a kernel may take tensors (..., size): float32 on the CPU, sizes of heads.

    Tracing, exporting, compiling, transforms and counting must see torch's operations instead.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_watched():
        return False
    return all(tensor is None or _is_plain(tensor) for tensor in tensors)


def of_its_kind(*tensors: Tensor | None) -> bool:
    """Return whether tensors are float32 on the CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in given)


def _is_plain(x: Tensor) -> bool:
    """Return whether a tensor's numbers are floats in memory, not those of an unknown subclass."""
    return (
        x.is_cpu  # every call of a kernel asks this of all its tensors, and `device` takes longer
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def sizes_fit(*sizes: int) -> bool:
    """Return whether kernels can be compiled for heads of so many channels."""
    return all(size % 4 == 0 and 4 <= size <= LARGEST_SIZE for size in sizes)


def is_watched() -> bool:
    """Return whether a dispatch mode or a transform wants to see every operation.

    Transforms are those of `torch.func` and forward-mode differentiation.
    """
    return (
        torch._C._len_torch_dispatch_stack() > 0  # noqa: SLF001
        or is_transformed()
        or is_forward_mode()
    )


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` is at work, in which tensors have no values."""
    return torch._C._are_functorch_transforms_active()  # noqa: SLF001


def is_forward_mode() -> bool:
    """Return whether forward-mode differentiation is at work, as `torch.func.jvp` does it."""
    return forward_ad._current_level >= 0  # noqa: SLF001


def expected(name: str, x: Tensor, *sizes: int | None) -> Tensor:
    """Return a tensor as a kernel may read it, its rows contiguous and apart from one another.

    Every tensor is checked here before its address goes to C, which trusts the sizes.

    Args:
        name: of the tensor, for the error.
        x: the tensor.
        sizes: of its axes; None is any size.

    Raises:
        ConfigError: when it is not of float32 on the CPU, or has other sizes.
    """
    if not _has_sizes(x, sizes) or not _is_plain(x):
        shape = " x ".join("any" if size is None else str(size) for size in sizes)
        rule = f"must be a plain tensor of float32 on the CPU, of shape {shape}"
        raise ConfigError(name, rule, f"{x.dtype} on {x.device} of shape {tuple(x.shape)}")
    return in_rows(x)


def _has_sizes(x: Tensor, sizes: tuple[int | None, ...]) -> bool:
    if x.ndim != len(sizes):
        return False
    for size, there in zip(sizes, x.shape, strict=True):  # as `all` of them, in half the time
        if size is not None and size != there:
            return False
    return True


def check_written(name: str, x: Tensor, *sizes: int) -> None:
    """Raise ConfigError unless a kernel may write a tensor: as `expected`, and in rows already."""
    if expected(name, x, *sizes) is not x and x.numel():
        raise ConfigError(name, "must have contiguous rows, apart from one another", x.stride())


def in_rows(x: Tensor) -> Tensor:
    """Return a tensor (..., size) whose rows are contiguous and apart from one another."""
    if x.is_neg():
        x = x.resolve_neg()  # torch may keep a sign beside the numbers
    strides = x.stride()
    return x if strides[-1] == 1 and 0 not in strides else x.contiguous()


def empty_like(x: Tensor) -> Tensor:
    """Return an uninitialised tensor in the shape, and if that has rows the order, of another."""
    made = torch.empty_like(x)
    return made if made.stride(-1) == 1 else x.new_empty(x.shape)


def check_threshold(threshold: float) -> None:
    """Raise ConfigError unless a threshold is one of attention: a number from 0 on."""
    if not threshold >= 0.0:  # what is not a number, too
        raise ConfigError("threshold", "must be a number from 0 on", threshold)


def compiled(library: ctypes.CDLL | None, key_size: int, value_size: int) -> ctypes.CDLL:
    """Return the library for heads of these sizes; ConfigError where there is none."""
    if library is None:
        rule = (
            f"must be multiples of 4 up to {LARGEST_SIZE}, and a C compiler at hand, for a native "
            "kernel"
        )
        raise ConfigError("channels of keys and values per head", rule, (key_size, value_size))
    return library


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
