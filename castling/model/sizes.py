"""Refuses images of another size than the model's where the result would be wrong."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from castling.operators.spec import TokenGrid, other_size


def holds_grid(module: nn.Module) -> bool:
    """Return whether a module, or a part of it, works on one grid only, its attribute `grid`."""
    return any(isinstance(getattr(part, "grid", None), TokenGrid) for part in module.modules())


def check_image_size(images: Tensor, size: tuple[int, int]) -> None:
    """Raise ConfigError unless images (..., height, width) are of a model's size in pixels."""
    height, width = images.shape[-2:]
    if not torch.jit.is_tracing() and (height, width) != size:
        rule = f"must be that of the model, {size[0]} x {size[1]} pixels"
        raise other_size(rule, f"{height} x {width}")


def check_bias(bias: Tensor, queries: int, keys: int) -> None:
    """Raise ConfigError unless a bias of attention (..., query, key) fits the number of tokens."""
    if not torch.jit.is_tracing() and bias.shape[-2:] != (queries, keys):
        rule = f"must be that of the model, whose biases are of {tuple(bias.shape[-2:])} tokens"
        raise other_size(rule, (queries, keys))


def hold_image_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Make a model refuse images of another size than (height, width).

    The stem is checked too, as timm's `forward_features` and `forward_intermediates` call it
    without the model's own forward pass.
    """
    check = partial(_check_images, size)
    model.register_forward_pre_hook(check, with_kwargs=True)
    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    stem = getattr(model, first.partition(".")[0], None) if isinstance(first, str) else None
    if isinstance(stem, nn.Module):
        stem.register_forward_pre_hook(check, with_kwargs=True)


def _check_images(
    size: tuple[int, int], _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> None:
    for images in (*inputs, *named.values())[:1]:
        check_image_size(images, size)


def hold_map(block: nn.Module, grid: TokenGrid) -> None:
    """Make a block refuse maps (batch, height, width, channel) of other sides than a grid's."""
    block.register_forward_pre_hook(partial(_check_map, grid))


def _check_map(grid: TokenGrid, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    grid.check_sides(*inputs[0].shape[1:3])
