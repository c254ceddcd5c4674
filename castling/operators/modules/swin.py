"""The module of the operator `swin`; castling.operators.swin has the formula."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.layers import trunc_normal_
from torch import Tensor, nn

from castling.operators.spec import (
    LayerShape,
)
from castling.operators.swin import shifts, window_sides


class SwinAttention(nn.Module):
    """Shifted window attention (Liu et al., Swin Transformer, ICCV 2021).

    The formula and its costs stand in `castling.operators.swin`.
    """

    apart: Tensor

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        grid, block, self.window = shape.grid, shape.block, window_sides(shape)
        self.grid, self.num_heads, self.head_size = grid, block.num_heads, block.head_size
        self.rows, self.columns = grid.height // self.window[0], grid.width // self.window[1]
        self.shift = shifts(shape)
        width = block.attention_width
        self.qkv = nn.Linear(shape.embed_width, 3 * width, bias=shape.qkv_bias)
        self.position = PositionBias(self.window, self.num_heads)
        self.proj = nn.Linear(width, shape.embed_width)
        self.register_buffer("apart", self._apart(), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        self.grid.check(x.shape[1])
        qkv = self.qkv(self._cut(x)).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind(0)
        bias = self.position().masked_fill(self.apart, float("-inf")).flatten(0, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        y = y.unflatten(1, (-1, self.num_heads)).transpose(2, 3).flatten(3)
        return self._join(self.proj(y))

    def _cut(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch window member channel"]:
        """Roll the grid and cut it into windows."""
        (height, width), (down, right) = self.window, self.shift
        image = x.unflatten(1, (self.rows * height, self.columns * width))
        if any(self.shift):
            image = image.roll((-down, -right), dims=(1, 2))
        cut = image.unflatten(2, (self.columns, width)).unflatten(1, (self.rows, height))
        return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _join(
        self, windows: Float[Tensor, "batch window member channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Undo `_cut`."""
        cut = windows.unflatten(2, self.window).unflatten(1, (self.rows, self.columns))
        image = cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if any(self.shift):
            image = image.roll(self.shift, dims=(1, 2))
        return image.flatten(1, 2)

    def _apart(self) -> Bool[Tensor, "window 1 member member"]:
        """Return, for query and key of each window, whether the rolling brought them together."""
        sides = (self.rows * self.window[0], self.columns * self.window[1])
        down, right = (
            torch.arange(side) >= side - shift
            for side, shift in zip(sides, self.shift, strict=True)
        )
        region = down[:, None].long() * 2 + right
        cut = region.unflatten(1, (self.columns, -1)).unflatten(0, (self.rows, -1))
        members = cut.transpose(1, 2).flatten(2, 3).flatten(0, 1)
        return members[:, None, :, None] != members[:, None, None, :]


class PositionBias(nn.Module):
    """One learned number per head and relative position of query and key in a window.

    Called `bias`, so that weight decay passes it over as it does other biases.
    """

    index: Tensor

    def __init__(self, window: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        height, width = window
        self.bias = nn.Parameter(torch.empty((2 * height - 1) * (2 * width - 1), num_heads))
        trunc_normal_(self.bias, std=0.02)
        self.register_buffer("index", offsets(height, width), persistent=False)

    def forward(self) -> Float[Tensor, "head member member"]:
        """Return the biases of (head, query, key)."""
        return self.bias[self.index].permute(2, 0, 1)


def offsets(height: int, width: int) -> Int[Tensor, "member member"]:
    """Return the row of the bias table for query and key of a height x width window."""
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    down = row[:, None] - row[None, :] + height - 1
    right = column[:, None] - column[None, :] + width - 1
    return down * (2 * width - 1) + right
