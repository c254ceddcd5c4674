"""The kernel of a whole layer as an operator of torch, which torch.compile can call."""

from typing import Any

import torch
from torch import Tensor, library

from castling.errors import ConfigError
from castling.kernels import arguments, derivatives
from castling.kernels.linear_angular import ConvolutionGrid, backward_packed, forward_packed


_CHOICES = "int[] grid, Tensor? threshold"


def _register() -> None:
    """Register `torch.ops.castling.mix_packed`, with its shapes and its gradient.

    torch.compile caches its code on disk by the operator's name: other shapes need another name.
    """
    forward, backward = "castling::mix_packed", "castling::mix_packed_backward"
    library.define(
        forward, f"(Tensor qkv, Tensor weight, {_CHOICES}) -> (Tensor, Tensor, Tensor, Tensor)"
    )
    library.define(
        backward,
        "(Tensor qkv, Tensor weight, Tensor contexts, Tensor added, Tensor kept,"
        f" {_CHOICES}, Tensor gradient) -> (Tensor, Tensor)",
    )
    library.impl(forward, "cpu", _forward)
    library.impl(backward, "cpu", _backward)
    library.register_fake(forward, _forward_shapes)
    library.register_fake(backward, _backward_shapes)
    library.register_autograd(forward, _gradient, setup_context=_keep)
    library.register_autograd(backward, _no_second)


def _forward(
    qkv: Tensor, weight: Tensor, grid: list[int], threshold: Tensor | None
) -> tuple[Tensor, ...]:
    """Return what `forward_packed` does; an operator returns empty tensors for none.

    Raises:
        ConfigError: in forward mode too, of which torch does not tell an operator: its result
            would pass for a constant.
    """
    if arguments.is_forward_mode():
        raise derivatives.not_forward()
    made = forward_packed(qkv, weight, ConvolutionGrid.of(grid), _number(threshold))
    return tuple(qkv.new_empty(0) if part is None else part for part in made)


def _forward_shapes(
    qkv: Tensor, weight: Tensor, _grid: list[int], threshold: Tensor | None
) -> tuple[Tensor, ...]:
    _check_devices(qkv, weight, threshold)
    batch, tokens, _, heads, size = qkv.shape
    out = qkv.new_empty(batch, tokens, heads, size)
    contexts = qkv.new_empty(batch, heads, size, size)
    if threshold is None:
        return out, contexts, qkv.new_empty(0), qkv.new_empty(0)
    added = qkv.new_empty(batch, tokens, heads, size).transpose(1, 2)
    return out, contexts, added, qkv.new_empty(batch, heads, tokens, 3)


def _backward(  # noqa: PLR0913, PLR0917 - what was kept
    qkv: Tensor,
    weight: Tensor,
    contexts: Tensor,
    added: Tensor,
    kept: Tensor,
    grid: list[int],
    threshold: Tensor | None,
    gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    if arguments.is_forward_mode():
        raise derivatives.not_forward()
    alive = threshold is not None
    return backward_packed(
        qkv,
        weight,
        contexts,
        added if alive else None,
        kept if alive else None,
        ConvolutionGrid.of(grid),
        _number(threshold),
        gradient,
    )


def _backward_shapes(qkv: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *kept, _grid, threshold, gradient = others
    _check_devices(qkv, weight, *kept, threshold, gradient)
    return qkv.new_empty(qkv.shape), weight.new_empty(weight.shape)


def _check_devices(*tensors: Tensor | None) -> None:
    """Raise ConfigError where only some tensors have no values: the result would have none."""
    devices = {str(tensor.device) for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ConfigError("qkv and what comes with it", "must be on one device", sorted(devices))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, weight, grid, threshold = inputs
    ctx.mark_non_differentiable(*output[1:])  # what the backward pass wants
    ctx.save_for_backward(qkv, weight, *output[1:], threshold)
    ctx.grid = grid


def _gradient(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *saved, threshold = ctx.saved_tensors
    dqkv, dweight = torch.ops.castling.mix_packed_backward(*saved, ctx.grid, threshold, gradient)
    return dqkv, dweight, None, None


def _no_second(_: Any, *__: Tensor) -> None:
    raise derivatives.not_twice()


def _number(threshold: Tensor | None) -> float | None:
    if threshold is None:
        return None
    if threshold.numel() != 1 or threshold.is_complex():
        raise ConfigError("threshold", "must be one real number", tuple(threshold.shape))
    return threshold.item()


_register()
