"""Linear-angular attention with its convolution as one kernel, forward and backward."""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from castling.native import arguments, masked_attention
from castling.native.compiler import load_library


_SOURCE = Path(__file__).with_name("linear_angular.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionGrid:
    """Where the taps of a depthwise convolution reach: tokens before a grid, and the grid."""

    prefix: int
    height: int
    width: int


def serves(*tensors: Tensor | None) -> bool:
    """Return whether the kernel takes these tensors here, given q, k, v and whatever else."""
    q, _, v = tensors[:3]
    assert q is not None
    assert v is not None
    return arguments.fit(*tensors) and kernel(q.shape[-1], v.shape[-1]) is not None


@cache
def kernel(key_size: int, value_size: int) -> ctypes.CDLL | None:
    """Return the library for heads of these sizes, or None where there is none."""
    if not arguments.sizes_fit(key_size, value_size):
        return None
    return load_library(_SOURCE, key=key_size, value=value_size)


def serves_packed(
    qkv: Float[Tensor, "batch token 3 head size"],
    weight: Float[Tensor, "filter 1 down across"],
) -> bool:
    """Return whether `mix_packed` takes these tensors here; a compiler calls it as it is."""
    if not torch.compiler.is_compiling():
        return arguments.fit(qkv, weight) and _has_kernel(qkv.shape[-1])
    if torch.compiler.is_exporting():  # into a graph that others run
        return False
    return arguments.of_its_kind(qkv, weight) and _has_kernel(qkv.shape[-1])


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_kernel(size: int) -> bool:
    return kernel(size, size) is not None


def mix_packed(
    qkv: Float[Tensor, "batch token 3 head size"],
    weight: Float[Tensor, "filter 1 down across"],
    grid: ConvolutionGrid,
    threshold: float | Tensor | None = None,
) -> tuple[Float[Tensor, "batch token head size"], Float[Tensor, "batch head token"] | None]:
    """Return y / |y| + DWConv(v) for q, k and v side by side; see `mix`, but tokens come first.

    With a threshold, the masked attention of the same q, k and v is what `mix` calls `added`, and
    beside the values comes how many keys of each query survive. While a model is compiled the
    threshold is a tensor of one number.
    """
    if torch.compiler.is_compiling():
        along = [grid.prefix, grid.height, grid.width]
        out, _, _, kept = torch.ops.castling.mix_packed(qkv, weight, along, threshold)
    else:
        out, kept = _MixPacked.apply(qkv, weight, grid, threshold)
    return out, None if threshold is None else masked_attention.survivors(kept)


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
        ctx: Any, qkv: Tensor, weight: Tensor, grid: ConvolutionGrid, threshold: float | None
    ) -> tuple[Tensor, Tensor | None]:
        qkv = arguments.in_rows(qkv)
        out, contexts, added, kept = forward_packed(qkv, weight, grid, threshold)
        ctx.save_for_backward(qkv, weight, contexts, added, kept)
        ctx.grid, ctx.threshold = grid, threshold
        if kept is not None:
            ctx.mark_non_differentiable(kept)
        return out, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, weight, contexts, added, kept = ctx.saved_tensors
        dqkv, dweight = backward_packed(
            qkv, weight, contexts, added, kept, ctx.grid, ctx.threshold, gradient
        )
        return dqkv, dweight, None, None


def forward_packed(
    qkv: Tensor, weight: Tensor, grid: ConvolutionGrid, threshold: float | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return mixed values (batch, token, head, size), and what `backward_packed` wants of it."""
    q, k, v = _apart(qkv)
    added = kept = None
    if threshold is not None:
        added, kept = masked_attention.forward(q, k, v, threshold)
    out, contexts = _forward([q, k, v, v, added], weight, grid)
    return out.transpose(1, 2), contexts, added, kept


def backward_packed(  # noqa: PLR0913, PLR0917 - what was kept
    qkv: Tensor,
    weight: Tensor,
    contexts: Tensor,
    added: Tensor | None,
    kept: Tensor | None,
    grid: ConvolutionGrid,
    threshold: float | None,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv and weight."""
    dqkv = qkv.new_empty(qkv.shape)
    (q, k, v), (dq, dk, dv) = _apart(qkv), _apart(dqkv)
    dadded = None if added is None else torch.empty_like(added)
    inputs, gradients = [q, k, v, v, added], [dq, dk, dv, dv, dadded]
    dweight = _backward(inputs, weight, contexts, gradient.transpose(1, 2), gradients, grid)
    if added is not None:
        assert dadded is not None
        assert kept is not None
        assert threshold is not None
        masked_attention.add_gradients([q, k, v, added, dadded], kept, threshold, [dq, dk, dv])
    return dqkv, dweight


def _apart(qkv: Tensor) -> tuple[Tensor, ...]:
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


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
        q, k, v, own, added = (arguments.in_rows(x) for x in (q, k, v, own, added))
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
        arguments.tensors([*inputs, out]),
        arguments.pointer(taps),
        arguments.pointer(contexts),
        arguments.num_threads(q, v),
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
    gradient = arguments.in_rows(gradient)
    found.backward(
        _shape(q, v, weight, grid),
        arguments.tensors([*inputs, gradient, *gradients]),
        arguments.pointer(taps),
        arguments.pointer(contexts),
        arguments.pointer(dtaps),
        arguments.num_threads(q, v),
    )
    summed = dtaps.sum(0)
    if weight.shape[0] == heads:
        return summed.sum(-1).view(weight.shape)
    return summed.transpose(1, 2).reshape(weight.shape)


def _taps(weight: Tensor, heads: int, size: int) -> Tensor:
    """Return the filters as (head, tap, channel of the head)."""
    if weight.shape[0] == heads:
        return weight.reshape(heads, -1, 1).expand(-1, -1, size).contiguous()
    return weight.reshape(heads, size, -1).transpose(1, 2).contiguous()


def _shape(q: Tensor, v: Tensor, weight: Tensor, grid: ConvolutionGrid) -> Any:
    batch, heads, queries, _ = q.shape
    down, across = weight.shape[2:]
    return arguments.integers(
        batch, heads, queries, v.shape[2], grid.prefix, grid.height, grid.width, down, across
    )
