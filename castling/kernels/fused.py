"""The Triton kernels of linear-angular attention as torch's operator `castling::mix_added`."""

import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, library

from castling.errors import ConfigError
from castling.kernels import derivatives
from castling.kernels.linear_angular import ConvolutionGrid


LARGEST_SIZE = 128
"""Channels per head; contexts of this many squared are held in registers."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS, ROWS_BACKWARD = 64, 32
"""Tokens of a tile."""
MOST_SHARED = 99 * 1024
"""Bytes of shared memory of a program where torch does not name them: those of consumer GPUs."""
TOKENS_PER_PROGRAM = 512
"""Tokens over which one program adds up a context; others add up further tokens beside it."""


def mix_added(
    qkv: Float[Tensor, "batch token 3 head size"],
    weight: Float[Tensor, "filter 1 down across"],
    added: Float[Tensor, "batch head token size"] | None,
    grid: ConvolutionGrid,
) -> Float[Tensor, "batch token head size"]:
    """Return y / |y| + DWConv(v) of y = v / 2 + qn (kn^T v) / pi + added.

    Computed in float32, returned in the type of q, k and v. Differentiable once. The backward pass
    needs qkv, `added` and one size x size matrix per head.

    Raises:
        ConfigError: when sizes do not fit one another, or Triton is missing.
    """
    along = [grid.prefix, grid.height, grid.width]
    register()
    out, _ = torch.ops.castling.mix_added(qkv, weight, added, along)
    return out


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return find_spec("triton") is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def register() -> bool:
    """Register the operator, if it has not been; only now is Triton imported."""
    return operator() is not None


@cache
def operator() -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `castling::mix_added`, registered with its shapes and its gradient.

    Raises:
        ConfigError: when Triton is missing.
    """
    if not has_triton():
        raise ConfigError("triton", "must be installed for kernels on CUDA", None)
    kernels = import_module("castling.kernels.triton_linear_angular")

    @library.triton_op("castling::mix_added", mutates_args=())
    def mix(
        qkv: Tensor, weight: Tensor, added: Tensor | None, grid: list[int]
    ) -> tuple[Tensor, Tensor]:
        return _forward(kernels, qkv, weight, added, grid)

    @library.triton_op("castling::mix_added_backward", mutates_args=())
    def backward(
        qkv: Tensor,
        weight: Tensor,
        added: Tensor | None,
        context: Tensor,
        grid: list[int],
        gradient: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _backward(kernels, qkv, weight, added, context, grid, gradient)

    def gradient_of(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        qkv, weight, added, context = ctx.saved_tensors
        dqkv, dweight, dadded = backward(qkv, weight, added, context, ctx.grid, gradient)
        return dqkv, dweight, None if added is None else dadded, None

    mix.register_fake(_forward_shapes)
    backward.register_fake(_backward_shapes)
    mix.register_autograd(gradient_of, setup_context=_keep)
    backward.register_autograd(_no_second)
    return mix


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, weight, added, grid = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(qkv, weight, added, output[1])
    ctx.grid = grid


def _no_second(_: Any, *__: Tensor) -> None:
    raise derivatives.not_twice()


def _forward_shapes(
    qkv: Tensor, weight: Tensor, added: Tensor | None, grid: list[int]
) -> tuple[Tensor, Tensor]:
    _check(qkv, weight, added, grid)
    batch, tokens, _, heads, size = qkv.shape
    context = qkv.new_empty(batch, heads, size, size, dtype=torch.float32)
    return qkv.new_empty(batch, tokens, heads, size), context


def _backward_shapes(
    qkv: Tensor,
    weight: Tensor,
    added: Tensor | None,
    _context: Tensor,
    grid: list[int],
    _gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(qkv, weight, added, grid)
    dadded = qkv.new_empty(0) if added is None else _like(added)
    return qkv.new_empty(qkv.shape), weight.new_empty(weight.shape), dadded


def _check(qkv: Tensor, weight: Tensor, added: Tensor | None, grid: list[int]) -> None:
    """Raise ConfigError unless sizes fit one another and are those of the kernels."""
    if qkv.ndim != 5 or qkv.shape[2] != 3 or qkv.dtype not in TYPES:
        rule = "must be (batch, token, 3, head, size) of float32, bfloat16 or float16"
        raise ConfigError("qkv", rule, f"{qkv.dtype} of shape {tuple(qkv.shape)}")
    batch, tokens, _, heads, size = qkv.shape
    if not 1 <= size <= LARGEST_SIZE:
        raise ConfigError("channels per head", f"must be at most {LARGEST_SIZE}", size)
    ConvolutionGrid.of(grid).check(tokens)
    filters, one, down, across = weight.shape
    if filters not in {heads, heads * size} or one != 1 or down % 2 == 0 or across % 2 == 0:
        rule = f"must have a filter for each of {heads} heads or for each channel, of odd sides"
        raise ConfigError("weight", rule, tuple(weight.shape))
    if added is not None and added.shape != (batch, heads, tokens, size):
        rule = f"must be of shape {(batch, heads, tokens, size)}"
        raise ConfigError("added", rule, tuple(added.shape))
    devices = {str(x.device) for x in (qkv, weight, added) if x is not None}
    if len(devices) > 1:
        raise ConfigError("qkv and what comes with it", "must be on one device", sorted(devices))


def _like(x: Tensor) -> Tensor:
    """Return an uninitialised tensor in the shape and order of (batch, head, token, size)."""
    return x.new_empty(x.transpose(1, 2).shape).transpose(1, 2)


def _split(qkv: Tensor) -> tuple[Tensor, ...]:
    """Return q, k and v as (batch, head, token, size), without a copy."""
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def _strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Return each tensor's strides of image, head and token; its rows must be contiguous."""
    return tuple(s for x in tensors for s in ((0, 0, 0) if x is None else x.stride()[:3]))


def _in_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _padded(size: int) -> int:
    """Return a power of two that Triton's products take, 16 or more."""
    return max(16, 1 << (size - 1).bit_length())


def _precision(x: Tensor) -> str:
    """Return how products are rounded: half types as TF32, float32 as torch's matmul is."""
    whole = x.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return "ieee" if whole else "tf32"


def _taps(weight: Tensor, heads: int, size: int) -> Tensor:
    """Return the filters in float32 as (head, tap, channel of the head)."""
    filters, _, down, across = weight.shape
    if filters == heads:
        return weight.float().reshape(heads, down * across, 1).expand(-1, -1, size).contiguous()
    return weight.float().reshape(heads, size, down * across).transpose(1, 2).contiguous()


def _programs(tokens: int, rows: int) -> tuple[int, int]:
    """Return how many programs share the tokens of a head, and the tiles of each."""
    tiles = min(math.ceil(tokens / rows), TOKENS_PER_PROGRAM // rows)
    return math.ceil(tokens / (rows * tiles)), tiles


def _total(parts: Tensor) -> Tensor:
    """Return the sum of the programs' parts, axis 2."""
    return parts.squeeze(2) if parts.shape[2] == 1 else parts.sum(2)


def _forward(
    kernels: Any, qkv: Tensor, weight: Tensor, added: Tensor | None, grid: list[int]
) -> tuple[Tensor, Tensor]:
    _check(qkv, weight, added, grid)
    wrap: Any = library.wrap_triton
    qkv = _in_rows(qkv)
    added = None if added is None else _in_rows(added)
    (batch, tokens, _, heads, size), (q, k, v) = qkv.shape, _split(qkv)
    padded, precision = _padded(size), _precision(qkv)
    out = qkv.new_empty(batch, tokens, heads, size)
    if not qkv.numel():
        return out, qkv.new_zeros(batch, heads, size, size, dtype=torch.float32)
    programs, tiles = _programs(tokens, ROWS)
    parts = qkv.new_empty(batch, heads, programs, size, size, dtype=torch.float32)
    wrap(kernels.contexts)[(batch * heads, programs)](
        k, v, parts, heads, tokens, *_strides(k, v),
        size, size, padded, padded, ROWS, tiles, precision,
    )  # fmt: skip
    context = _total(parts)
    wrap(kernels.output)[(batch * heads, math.ceil(tokens / ROWS))](
        q, v, v if added is None else added, context, _taps(weight, heads, size), out,
        heads, tokens, *grid, *_strides(q, v, added),
        size, size, padded, padded, *weight.shape[2:], added is not None, ROWS, precision,
    )  # fmt: skip
    return out, context


def _backward(  # noqa: PLR0913, PLR0917 - saved tensors
    kernels: Any,
    qkv: Tensor,
    weight: Tensor,
    added: Tensor | None,
    context: Tensor,
    grid: list[int],
    gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    wrap: Any = library.wrap_triton
    qkv, gradient = _in_rows(qkv), _in_rows(gradient).transpose(1, 2)
    added = None if added is None else _in_rows(added)
    (batch, tokens, _, heads, size), (q, k, v) = qkv.shape, _split(qkv)
    padded, precision = _padded(size), _precision(qkv)
    dqkv = qkv.new_empty(qkv.shape)
    dq, dk, dv = _split(dqkv)
    dadded = None if added is None else _like(added)
    down, across = weight.shape[2:]
    nothing = qkv.new_empty(0)
    if not qkv.numel():
        return dqkv, torch.zeros_like(weight), nothing if dadded is None else dadded
    programs, tiles = _programs(tokens, ROWS_BACKWARD)
    dparts = qkv.new_empty(batch, heads, programs, size, size, dtype=torch.float32)
    dtaps = qkv.new_empty(batch, heads, programs, down * across, size, dtype=torch.float32)
    wrap(kernels.gradients_of_queries)[(batch * heads, programs)](
        q, v, v if added is None else added, context, _taps(weight, heads, size), gradient,
        dq, dv, dv if dadded is None else dadded, dparts, dtaps,
        heads, tokens, *grid, *_strides(q, v, added, gradient, dq, dv, dadded),
        size, size, padded, padded, down, across, added is not None, ROWS_BACKWARD, tiles,
        precision,
    )  # fmt: skip
    shared = True  # the queries' part of the gradient of v lies in dv already
    wrap(kernels.gradients_of_keys)[(batch * heads, math.ceil(tokens / ROWS_BACKWARD))](
        k, v, _total(dparts), dk, dv, heads, tokens, *_strides(k, v, dk, dv),
        size, size, padded, padded, shared, ROWS_BACKWARD, precision,
    )  # fmt: skip
    summed = dtaps.sum((0, 2))
    shaped = summed.sum(-1) if weight.shape[0] == heads else summed.transpose(1, 2)
    dweight = shaped.reshape(weight.shape).to(weight.dtype)
    return dqkv, dweight, nothing if dadded is None else dadded


def objection(qkv: Tensor, weight: Tensor) -> str:
    """Return why the kernels do not take these tensors here; nothing if they do."""
    size = qkv.shape[-1]
    if qkv.dtype not in TYPES or weight.dtype not in TYPES:
        return "the kernels take float32, bfloat16 and float16"
    if size > LARGEST_SIZE:
        return "heads have more than 128 channels"
    if not has_triton():
        return "Triton is not installed"
    if qkv.is_cuda and _shared_bytes(size) > (there := shared_memory(qkv.device)):
        return f"heads of {size} channels need more shared memory than the {there:,} bytes here"
    return ""


def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that a program may have on a CUDA device."""
    properties: Any = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", MOST_SHARED))


def _shared_bytes(size: int) -> int:
    """Return an upper bound of the shared memory of the backward kernels.

    The operands of their products lie there: a context, its transpose, and two tiles of rows.
    """
    padded = _padded(size)
    return 4 * (2 * padded**2 + 2 * ROWS_BACKWARD * padded)
