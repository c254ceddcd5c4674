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

from castling.errors import ConfigError
from castling.kernels import arguments, derivatives, masked_attention
from castling.kernels.compiler import load_library


_SOURCE = Path(__file__).with_name("linear_angular.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionGrid:
    """Where the taps of a depthwise convolution reach: tokens before a grid, and the grid."""

    prefix: int
    height: int
    width: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "ConvolutionGrid":
        """Return the grid of (prefix, height, width); ConfigError for other than three numbers."""
        if len(numbers) != 3:
            raise ConfigError("grid", "must be tokens before it, height and width", list(numbers))
        prefix, height, width = numbers
        return cls(prefix=prefix, height=height, width=width)

    def check(self, queries: int) -> None:
        """Raise ConfigError unless the queries are the tokens before the grid and those on it."""
        fits = self.prefix >= 0 and self.height >= 0 and self.width >= 1
        if not fits or self.prefix + self.height * self.width != queries:
            rule = f"must have as many tokens as there are queries, {queries:,}"
            raise ConfigError("grid", rule, (self.prefix, self.height, self.width))


def serves(*tensors: Tensor | None) -> bool:
    """Return whether the kernel takes these tensors here: q, k, v and all others."""
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

    With a threshold, the masked attention of the same q, k and v is the `added` of `mix`, and the
    second result is the number of surviving keys per query. While a model is compiled the
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
        own: the value of each query; v itself if queries and keys are the same tokens.
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
        out, contexts, added, kept = forward_packed(qkv, weight, grid, threshold)
        ctx.save_for_backward(qkv, weight, contexts, added, kept)
        ctx.grid, ctx.threshold = grid, threshold
        if kept is not None:
            ctx.mark_non_differentiable(kept)
        return out, kept

    @staticmethod
    @derivatives.once
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv, weight, contexts, added, kept = ctx.saved_tensors
        dqkv, dweight = backward_packed(
            qkv, weight, contexts, added, kept, ctx.grid, ctx.threshold, gradient
        )
        return dqkv, dweight, None, None


def forward_packed(
    qkv: Tensor, weight: Tensor, grid: ConvolutionGrid, threshold: float | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return mixed values (batch, token, head, size), and the intermediates for `backward_packed`.

    Raises:
        ConfigError: when a tensor is not of float32 on the CPU or sizes do not fit one another.
    """
    q, k, v = _apart(_checked_packed(qkv))
    added = kept = None
    if threshold is not None:
        added, kept = masked_attention.forward(q, k, v, threshold)
    out, contexts = _forward((q, k, v, None, added), weight, grid)
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
    """Return the gradients of qkv and weight; ConfigError as `forward_packed`."""
    qkv = _checked_packed(qkv)
    batch, tokens, _, heads, size = qkv.shape
    gradient = arguments.expected("gradient", gradient, batch, tokens, heads, size)
    dqkv = qkv.new_empty(qkv.shape)
    (q, k, v), (dq, dk, dv) = _apart(qkv), _apart(dqkv)
    dweight, _, dadded = _backward(
        (q, k, v, None, added), weight, contexts, gradient.transpose(1, 2), (dq, dk, dv), grid
    )
    if dadded is not None:
        if kept is None or threshold is None:
            raise ConfigError("threshold", "must be there with what the masked attention added")
        masked_attention.add_gradients([q, k, v, dadded], kept, threshold, [dq, dk, dv])
    return dqkv, dweight


def _checked_packed(qkv: Tensor) -> Tensor:
    return arguments.expected("qkv", qkv, None, None, 3, None, None)


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
        inputs = _checked(q, k, v, own, added)
        out, contexts = _forward(inputs, weight, grid)
        ctx.save_for_backward(*inputs, weight, contexts)
        ctx.grid = grid
        return out

    @staticmethod
    @derivatives.once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, weight, contexts = ctx.saved_tensors
        written = tuple(arguments.empty_like(x) for x in inputs[:3])
        dweight, down, dadded = _backward(
            tuple(inputs), weight, contexts, gradient, written, ctx.grid
        )
        return *written, down, dadded, dweight, None


_Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
"""q, k, v, the values of the queries if those are not v, and the result of the masked branch."""


def _checked(q: Tensor, k: Tensor, v: Tensor, own: Tensor | None, added: Tensor | None) -> _Inputs:
    """Return the inputs in rows, of sizes that fit one another; ConfigError if they do not."""
    q = arguments.expected("q", q, None, None, None, None)
    batch, heads, queries, key_size = q.shape
    k = arguments.expected("k", k, batch, heads, None, key_size)
    keys = k.shape[2]
    if own is None and keys != queries:
        raise ConfigError("own", "must be there where queries and keys differ", (queries, keys))
    v = arguments.expected("v", v, batch, heads, keys, None)
    mixed = (batch, heads, queries, v.shape[-1])
    if own is not None:
        own = arguments.expected("own", own, *mixed)
    if added is not None:
        added = arguments.expected("added", added, *mixed)
    return q, k, v, own, added


def _forward(inputs: _Inputs, weight: Tensor, grid: ConvolutionGrid) -> tuple[Tensor, Tensor]:
    """Return the result and the intermediates for `_backward`, for inputs of `_checked`."""
    q, k, v, own, added = inputs
    batch, heads, queries, key_size = q.shape
    size = v.shape[-1]
    found = arguments.compiled(kernel(key_size, size), key_size, size)
    grid.check(queries)
    taps = _taps(weight, heads, size)
    out = v.new_empty(batch, queries, heads, size).transpose(1, 2)
    contexts = v.new_empty(batch, heads, key_size, size)
    found.forward(
        _shape(q, v, weight, grid),
        arguments.tensors([q, k, v, v if own is None else own, added, out]),
        arguments.pointer(taps),
        arguments.pointer(contexts),
        arguments.num_threads(q, v),
    )
    return out, contexts


def _backward(
    inputs: _Inputs,
    weight: Tensor,
    contexts: Tensor,
    gradient: Tensor,
    written: tuple[Tensor, ...],
    grid: ConvolutionGrid,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Write the gradients of q, k and v; return those of weight, of own and of added."""
    q, k, v, own, added = inputs = _checked(*inputs)
    batch, heads, queries, key_size = q.shape
    size = v.shape[-1]
    found = arguments.compiled(kernel(key_size, size), key_size, size)
    grid.check(queries)
    gradient = arguments.expected("gradient", gradient, batch, heads, queries, size)
    contexts = arguments.expected("contexts", contexts, batch, heads, key_size, size).contiguous()
    for name, x, made in zip("qkv", inputs[:3], written, strict=True):
        arguments.check_written(f"gradient of {name}", made, *x.shape)
    taps = _taps(weight, heads, size)
    dtaps = taps.new_empty(batch, *taps.shape)
    down, dadded = (None if x is None else arguments.empty_like(x) for x in (own, added))
    read, dv = [q, k, v, v if own is None else own, added, gradient], written[2]
    found.backward(
        _shape(q, v, weight, grid),
        arguments.tensors([*read, *written, dv if down is None else down, dadded]),
        arguments.pointer(taps),
        arguments.pointer(contexts),
        arguments.pointer(dtaps),
        arguments.num_threads(q, v),
    )
    summed = dtaps.sum(0)
    if weight.shape[0] == heads:
        return summed.sum(-1).view(weight.shape), down, dadded
    return summed.transpose(1, 2).reshape(weight.shape), down, dadded


def _taps(weight: Tensor, heads: int, size: int) -> Tensor:
    """Return the filters as (head, tap, channel of the head)."""
    weight = arguments.expected("weight", weight, None, 1, None, None)
    filters, _, down, across = weight.shape
    if filters not in {heads, heads * size} or down % 2 == 0 or across % 2 == 0:
        rule = f"must have a filter for each of {heads} heads or for each channel, of odd sides"
        raise ConfigError("weight", rule, tuple(weight.shape))
    if filters == heads:
        return weight.reshape(heads, down * across, 1).expand(-1, -1, size).contiguous()
    return weight.reshape(heads, size, down * across).transpose(1, 2).contiguous()


def _shape(q: Tensor, v: Tensor, weight: Tensor, grid: ConvolutionGrid) -> Any:
    batch, heads, queries, _ = q.shape
    down, across = weight.shape[2:]
    return arguments.integers(
        batch, heads, queries, v.shape[2], grid.prefix, grid.height, grid.width, down, across
    )
