"""Swin's window attention: converted, it sees the whole map; only its branch uses windows."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from timm.models.swin_transformer import (
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.converted import ConvertedAttention, bias_of_qkv, with_biases
from castling.model.adapters.spec import ADAPTERS, AttentionAdapter, Call, CoreLayer, num_params
from castling.model.sizes import hold_map
from castling.operators.modules.training_only import TrainingOnly
from castling.operators.spec import TokenGrid


class ConvertedWindowAttention(ConvertedAttention):
    """Swin's attention (Liu et al., ICCV 2021) with a core over the whole map.

    Our choice, as Castling-ViT leaves it open: linear attention costs no more over the whole map
    than in windows, so windows and shifts are dropped; the masked branch is timm's softmax
    attention, in its windows, shifted, with its relative positions.
    """

    training_only: ClassVar[tuple[str, ...]] = (
        "relative_position_bias_table",
        "relative_position_index",
    )

    relative_position_bias_table: Tensor
    relative_position_index: Tensor
    windows: "_Windows"
    proj_drop: nn.Module

    def __init__(self, block: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(block.attn, layer, choice)
        self.map = (layer.queries.height, layer.queries.width)
        if hasattr(self, "auxiliary"):
            self.windows = _Windows(block)
            self._keep_positions(block.attn)

    def bias(self, q: Tensor) -> Tensor:
        """Return the relative positions' bias and the shift's mask, for q in windows."""
        mask = self.windows.mask
        if mask is None:
            return self._positions()
        num_images = q.shape[0] // mask.shape[0]
        return (self._positions() + mask[:, None]).repeat(num_images, 1, 1, 1)

    def added(self, q: Tensor, k: Tensor, v: Tensor, shared: Tensor | None) -> Tensor:
        """Return what the masked branch adds: timm's attention within windows."""
        cut = [
            self.windows.cut(part, self.map, padding)
            for part, padding in zip((q, k, v), self._paddings(), strict=True)
        ]
        windows = super().added(cut[0], cut[1], cut[2], shared)
        return self.windows.join(windows, self.map)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix tokens (batch, token, channel) of the whole map, the one window there is."""
        assert mask is None
        q, k, v = self._heads(with_biases(self, x))
        mixed = self.mix(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Return q, k and v, each (..., head, size), before the product."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)

    def _paddings(self) -> tuple[Tensor, ...]:
        """Return q, k and v of timm's padding, which are the projections of a token of zeros."""
        return tuple(part.flatten() for part in self._heads(bias_of_qkv(self)))

    def _keep_positions(self, stock: Any) -> None:
        self.relative_position_bias_table = stock.relative_position_bias_table
        index = stock.relative_position_index
        self.register_buffer("relative_position_index", index, persistent=False)

    def _positions(self) -> Tensor:
        """Return the bias of the relative positions in a window, (head, query, key)."""
        index = self.relative_position_index
        table = self.relative_position_bias_table[index.flatten()]
        return table.unflatten(0, index.shape).permute(2, 0, 1)


class _Windows(TrainingOnly):
    """The windows of a Swin block, shifted or not."""

    mask: Tensor | None

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.size, self.shift = block.window_size, block.shift_size
        self.register_buffer("mask", block.attn_mask, persistent=False)

    def cut(self, x: Tensor, size: tuple[int, int], padding: Tensor) -> Tensor:
        """Return (batch x window, head, token, size) of (batch, head, token, size).

        Args:
            x: q, k or v of a map.
            size: height and width of the map.
            padding: the value of tokens outside of the map, (head x size).
        """
        image = x.transpose(1, 2).flatten(2).unflatten(1, size)
        if any(self.shift):
            image = image.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        windows = window_partition(self._padded(image, size, padding), self.size).flatten(1, 2)
        return windows.unflatten(-1, (x.shape[1], -1)).transpose(1, 2)

    def _padded(self, image: Tensor, size: tuple[int, int], padding: Tensor) -> Tensor:
        """Return an image (batch, height, width, channel) of whole windows."""
        below, right = (-side % window for side, window in zip(size, self.size, strict=True))
        batch, _, _, channels = image.shape
        if not below and not right:
            return image
        wide = torch.cat([image, padding.expand(batch, size[0], right, channels)], dim=2)
        row = padding.expand(batch, below, size[1] + right, channels)
        return torch.cat([wide, row], dim=1)

    def join(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Undo `cut`."""
        windows = x.transpose(1, 2).flatten(2).unflatten(1, self.size)
        height, width = (
            side + -side % window for side, window in zip(size, self.size, strict=True)
        )
        image = window_reverse(windows, self.size, height, width)[:, : size[0], : size[1]]
        if any(self.shift):
            image = image.roll(tuple(self.shift), dims=(1, 2))
        return image.flatten(1, 2).unflatten(-1, (x.shape[1], -1)).transpose(1, 2)


def _converted(block: Any, layer: CoreLayer, choice: LayerChoice) -> nn.Module:
    return with_whole_map(block, ConvertedWindowAttention(block, layer, choice), layer.queries)


def with_whole_map(block: Any, converted: ConvertedWindowAttention, grid: TokenGrid) -> nn.Module:
    """Return the block with its attention converted and its window as large as the map."""
    block.attn = converted
    block.window_size = (grid.height, grid.width)
    block.window_area = grid.num_tokens
    block.shift_size = (0, 0)
    block.attn_mask = None
    hold_map(block, grid)
    return block


def window_layer(
    call: Call, positions: int, build: Callable[[Any, CoreLayer, LayerChoice], nn.Module]
) -> CoreLayer | str:
    """Return the layer of a block of the Swin family.

    Args:
        call: of the block.
        positions: parameters of the relative positions, which are dropped with the branch.
        build: makes the converted block.
    """
    block, attention = call.module, call.module.attn
    if block.dynamic_mask:
        return "takes images of any size, for which mask and convolution have no grid"
    _, height, width, _ = call.inputs[0].shape
    grid = TokenGrid(height=height, width=width)
    weights = attention.qkv.weight.numel() + attention.proj.weight.numel()
    num_windows = math.prod(
        math.ceil(side / window)
        for side, window in zip((height, width), block.window_size, strict=True)
    )
    products = call.macs["attn"] - num_windows * block.window_area * weights
    return CoreLayer(
        name=call.name,
        stock_macs=call.macs[""],
        stock_params=num_params(block),
        num_heads=attention.num_heads,
        key_size=attention.qkv.out_features // (3 * attention.num_heads),
        value_size=attention.qkv.out_features // (3 * attention.num_heads),
        queries=grid,
        keys=grid,
        kept_macs=call.macs[""] - call.macs["attn"] + grid.num_tokens * weights,
        kept_params=num_params(block) - positions,
        branch_macs=products,
        branch_keys=block.window_area,
        build=build,
    )


def _layer(call: Call) -> CoreLayer | str:
    attention = call.module.attn
    if type(attention) is not WindowAttention:
        return f"holds an attention of the unknown kind {type(attention).__name__}"
    return window_layer(call, attention.relative_position_bias_table.numel(), _converted)


ADAPTERS.add(
    "swin",
    AttentionAdapter(
        summary="Swin: windows become the whole map",
        knows=lambda module: type(module) is SwinTransformerBlock,
        layer=_layer,
    ),
)
