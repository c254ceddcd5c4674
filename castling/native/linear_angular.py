"""Linear-angular attention with its convolution as one kernel, forward and backward."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from castling.native.compiler import library


_SOURCE = Path(__file__).with_name("linear_angular.c")
_LARGEST_SIZE = 256
"""Channels per head; blocks of this many squared lie on the stack."""
_NUMBERS_PER_THREAD = 1 << 16
"""Fewer numbers of q and v than this are not worth a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionGrid:
    """Where the taps of a depthwise convolution reach: tokens before a grid, and the grid."""

    prefix: int
    height: int
    width: int


def serves(*tensors: Tensor | None) -> bool:
    """Return whether the kernel takes these tensors here, given q, k, v and whatever else.

    It takes float32 on the CPU with channels per head in multiples of four, where a C compiler
    was found. What traces, exports, compiles or counts operations must see torch's own instead.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    if any(x.device.type != "cpu" or x.dtype != torch.float32 for x in given):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_watched():
        return False
    return kernel(given[0].shape[-1], given[2].shape[-1]) is not None


def _is_watched() -> bool:
    """Return whether a dispatch mode or a function transform wants to see every operation."""
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()  # noqa: SLF001


@cache
def kernel(key_size: int, value_size: int) -> ctypes.CDLL | None:
    """Return the library for heads of these sizes, or None where there is none."""
    sizes = (key_size, value_size)
    if any(size % 4 or not 4 <= size <= _LARGEST_SIZE for size in sizes):
        return None
    return library(_SOURCE, key=key_size, value=value_size)


def mix_packed(
    qkv: Float[Tensor, "batch token 3 head size"],
    added: Float[Tensor, "batch head token size"] | None,
    weight: Float[Tensor, "filter 1 down across"],
    grid: ConvolutionGrid,
) -> Float[Tensor, "batch head token size"]:
    """Return y / |y| + DWConv(v) for q, k and v side by side; see `mix`."""
    return _MixPacked.apply(qkv, added, weight, grid)


def mix(  # noqa: PLR0913, PLR0917 - the operator's own
    q: Float[Tensor, "batch head query key_size"],
    k: Float[Tensor, "batch head key key_size"],
    v: Float[Tensor, "batch head key size"],
    own: Float[Tensor, "batch head query size"],
    added: Float[Tensor, "batch head query size"] | None,
    weight: Float[Tensor, "filter 1 down across"],
    grid: ConvolutionGrid,
) -> Float[Tensor, "batch head query size"]:
    """Return y / |y| + DWConv(own) of y = own / 2 + qn (kn^T v) / pi + added.

    Args:
        q: queries.
        k: keys.
        v: values of the keys.
        own: each query's own value; v itself where queries and keys are the same tokens.
        added: what the masked branch adds while training.
        weight: depthwise filters, one per head or one per channel.
        grid: of the convolution, over the queries.

    Returns:
        Values whose memory is (batch, query, head, size): merging heads copies nothing.
    """
    return _Mix.apply(q, k, v, None if own is v else own, added, weight, grid)


class _MixPacked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, added: Tensor | None, weight: Tensor, grid: ConvolutionGrid
    ) -> Tensor:
        qkv, added = _rows(qkv), _rows(added)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out, contexts = _forward([q, k, v, v, added], weight, grid)
        ctx.save_for_backward(qkv, added, weight, contexts)
        ctx.grid = grid
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        qkv, added, weight, contexts = ctx.saved_tensors
        dqkv = qkv.new_empty(qkv.shape)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        dq, dk, dv = dqkv.permute(2, 0, 3, 1, 4).unbind(0)
        dadded = None if added is None else torch.empty_like(added)
        inputs, gradients = [q, k, v, v, added], [dq, dk, dv, dv, dadded]
        dweight = _backward(inputs, weight, contexts, gradient, gradients, ctx.grid)
        return dqkv, dadded, dweight, None


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - the operator's own
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        own: Tensor | None,
        added: Tensor | None,
        weight: Tensor,
        grid: ConvolutionGrid,
    ) -> Tensor:
        q, k, v, own, added = (_rows(x) for x in (q, k, v, own, added))
        out, contexts = _forward([q, k, v, v if own is None else own, added], weight, grid)
        ctx.save_for_backward(q, k, v, own, added, weight, contexts)
        ctx.grid = grid
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, own, added, weight, contexts = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        down = dv if own is None else torch.empty_like(own)
        dadded = None if added is None else torch.empty_like(added)
        inputs, gradients = [q, k, v, v if own is None else own, added], [dq, dk, dv, down, dadded]
        dweight = _backward(inputs, weight, contexts, gradient, gradients, ctx.grid)
        return dq, dk, dv, None if own is None else down, dadded, dweight, None


def _rows(x: Any) -> Any:
    """Return a tensor whose rows are contiguous and apart from one another."""
    if x is None or (x.stride(-1) == 1 and 0 not in x.stride()):
        return x
    return x.contiguous()


def _forward(
    inputs: list[Tensor | None], weight: Tensor, grid: ConvolutionGrid
) -> tuple[Tensor, Tensor]:
    q, _, v = inputs[:3]
    assert q is not None
    assert v is not None
    batch, heads, queries, key_size = q.shape
    out = v.new_empty(batch, queries, heads, v.shape[-1]).transpose(1, 2)
    contexts = v.new_empty(batch, heads, key_size, v.shape[-1])
    found = kernel(key_size, v.shape[-1])
    assert found is not None  # `serves`
    taps = _taps(weight, heads, v.shape[-1])
    found.forward(
        _shape(q, v, weight, grid),
        _tensors([*inputs, out]),
        _pointer(taps),
        _pointer(contexts),
        _num_threads(q, v),
    )
    return out, contexts


def _backward(
    inputs: list[Tensor | None],
    weight: Tensor,
    contexts: Tensor,
    gradient: Tensor,
    gradients: list[Tensor | None],
    grid: ConvolutionGrid,
) -> Tensor:
    """Write the gradients of the inputs, and return the weight's."""
    q, _, v = inputs[:3]
    assert q is not None
    assert v is not None
    heads, size = q.shape[1], v.shape[-1]
    found = kernel(q.shape[-1], size)
    assert found is not None  # `serves`
    taps = _taps(weight, heads, size)
    dtaps = taps.new_empty(q.shape[0], *taps.shape)
    gradient = _rows(gradient)
    found.backward(
        _shape(q, v, weight, grid),
        _tensors([*inputs, gradient, *gradients]),
        _pointer(taps),
        _pointer(contexts),
        _pointer(dtaps),
        _num_threads(q, v),
    )
    summed = dtaps.sum(0)
    if weight.shape[0] == heads:
        return summed.sum(-1).view(weight.shape)
    return summed.transpose(1, 2).reshape(weight.shape)


def _num_threads(q: Tensor, v: Tensor) -> int:
    """Return how many threads are worth starting; every one takes whole heads of images."""
    return max(1, min(torch.get_num_threads(), (q.numel() + v.numel()) // _NUMBERS_PER_THREAD))


def _taps(weight: Tensor, heads: int, size: int) -> Tensor:
    """Return the filters as (head, tap, channel of the head)."""
    if weight.shape[0] == heads:
        return weight.reshape(heads, -1, 1).expand(-1, -1, size).contiguous()
    return weight.reshape(heads, size, -1).transpose(1, 2).contiguous()


def _shape(q: Tensor, v: Tensor, weight: Tensor, grid: ConvolutionGrid) -> Any:
    batch, heads, queries, _ = q.shape
    down, across = weight.shape[2:]
    return _integers(
        [batch, heads, queries, v.shape[2], grid.prefix, grid.height, grid.width, down, across]
    )


def _tensors(tensors: Sequence[Tensor | None]) -> Any:
    """Return each tensor's address and its strides of image, head and token."""
    numbers: list[int] = []
    for tensor in tensors:
        numbers += (0, 0, 0, 0) if tensor is None else (tensor.data_ptr(), *tensor.stride()[:3])
    return _integers(numbers)


def _integers(numbers: list[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
