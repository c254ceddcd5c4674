"""Swin's window attention: castled it sees the whole map; its windows remain in the branch."""

from typing import Any

import torch
from timm.models.swin_transformer import (
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.hosts.spec import (
    HOSTS,
    Call,
    CastledAttention,
    CoreLayer,
    Host,
    num_params,
)
from castling.operators.spec import TokenGrid


class CastledWindowAttention(CastledAttention):
    """Swin's attention (Liu et al., ICCV 2021) with a core over the whole map.

    Left open by Castling-ViT, and chosen here: linear attention costs no more over the whole map
    than in windows, so windows and shifts go; the masked branch is timm's softmax attention, in
    its windows, shifted, with its relative positions, and fades with them.
    """

    training_only = ("auxiliary", "relative_position_bias_table", "windows")

    relative_position_bias_table: Tensor
    windows: "_Windows"
    proj_drop: nn.Module

    def __init__(self, block: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        stock = block.attn
        super().__init__(stock, layer, choice)
        self.map = (layer.queries.height, layer.queries.width)
        if hasattr(self, "auxiliary"):
            self.relative_position_bias_table = stock.relative_position_bias_table
            self.windows = _Windows(block)

    def bias(self, q: Tensor) -> Tensor:
        """Return the relative positions' bias and the shift's mask, for q in windows."""
        index = self.windows.positions
        table = self.relative_position_bias_table[index.flatten()]
        bias = table.unflatten(0, index.shape).permute(2, 0, 1)
        mask = self.windows.mask
        if mask is None:
            return bias
        num_images = q.shape[0] // mask.shape[0]
        return (bias + mask[:, None]).repeat(num_images, 1, 1, 1)

    def added(self, q: Tensor, k: Tensor, v: Tensor, shared: Tensor | None) -> Tensor:
        """Return what the masked branch adds: timm's attention within windows."""
        cut = [
            self.windows.cut(part, self.map, padding)
            for part, padding in zip((q, k, v), self._paddings(), strict=True)
        ]
        windows = super().added(cut[0], cut[1], cut[2], shared)
        return self.windows.join(windows, self.map)

    def _paddings(self) -> tuple[Tensor | None, ...]:
        """Return q, k and v of timm's padding, which are the projections of a token of zeros."""
        bias: Any = self.qkv.bias
        return (None,) * 3 if bias is None else bias.chunk(3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix tokens (batch, token, channel) of the whole map, the one window there is."""
        assert mask is None
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.mix(q, k, v).transpose(1, 2).flatten(2)
        return self.proj_drop(self.proj(mixed))


class _Windows(nn.Module):
    """The windows of a Swin block, shifted or not."""

    mask: Tensor | None
    positions: Tensor

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.size, self.shift = block.window_size, block.shift_size
        self.register_buffer("positions", block.attn.relative_position_index, persistent=False)
        self.register_buffer("mask", block.attn_mask, persistent=False)

    def cut(self, x: Tensor, size: tuple[int, int], padding: Tensor | None) -> Tensor:
        """Return (batch x window, head, token, size) of (batch, head, token, size).

        Args:
            x: q, k or v of a map.
            size: height and width of the map.
            padding: what stands beside the map where windows reach beyond, (head x size); or 0.
        """
        image = x.transpose(1, 2).flatten(2).unflatten(1, size)
        if any(self.shift):
            image = image.roll((-self.shift[0], -self.shift[1]), dims=(1, 2))
        windows = window_partition(self._padded(image, size, padding), self.size).flatten(1, 2)
        return windows.unflatten(-1, (x.shape[1], -1)).transpose(1, 2)

    def _padded(self, image: Tensor, size: tuple[int, int], padding: Tensor | None) -> Tensor:
        """Return an image (batch, height, width, channel) of whole windows."""
        below, beside = (-side % window for side, window in zip(size, self.size, strict=True))
        batch, _, _, channels = image.shape
        if not below and not beside:
            return image
        beyond = image.new_zeros(channels) if padding is None else padding
        wide = torch.cat([image, beyond.expand(batch, size[0], beside, channels)], dim=2)
        row = beyond.expand(batch, below, size[1] + beside, channels)
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


def _castled(block: Any, layer: CoreLayer, choice: LayerChoice) -> nn.Module:
    """Return the block, its attention castled and its window as large as the map."""
    block.attn = CastledWindowAttention(block, layer, choice)
    block.window_size = (layer.queries.height, layer.queries.width)
    block.window_area = layer.queries.num_tokens
    block.shift_size = (0, 0)
    block.attn_mask = None
    return block


def _layer(call: Call) -> CoreLayer | str:
    block = call.module
    attention = block.attn
    if type(attention) is not WindowAttention:
        return f"holds an attention of the unknown kind {type(attention).__name__}"
    if block.dynamic_mask:
        return "takes images of any size, for which mask and convolution have no grid"
    _, height, width, _ = call.inputs[0].shape
    grid = TokenGrid(height=height, width=width)
    outside = call.macs[""] - call.macs["attn"]
    padded = call.macs["attn.qkv"] + call.macs["attn.proj"]
    products = call.macs["attn"] - padded
    projections = num_tokens_cost(attention, grid)
    return CoreLayer(
        name=call.name,
        stock_macs=call.macs[""],
        stock_params=num_params(block),
        num_heads=attention.num_heads,
        key_size=attention.qkv.out_features // (3 * attention.num_heads),
        value_size=attention.qkv.out_features // (3 * attention.num_heads),
        queries=grid,
        keys=grid,
        kept_macs=outside + projections,
        kept_params=num_params(block) - attention.relative_position_bias_table.numel(),
        branch_macs=products,
        branch_keys=attention.window_area,
        build=_castled,
    )


def num_tokens_cost(attention: WindowAttention, grid: TokenGrid) -> int:
    """Return the MACs of the projections without the tokens that pad windows."""
    weights = attention.qkv.weight.numel() + attention.proj.weight.numel()
    return grid.num_tokens * weights


HOSTS.add(
    "swin",
    Host(
        summary="Swin: windows become the whole map",
        knows=lambda module: type(module) is SwinTransformerBlock,
        layer=_layer,
    ),
)
