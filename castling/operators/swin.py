"""Swin's attention: softmax in windows with a position bias, shifted in every other layer."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from timm.layers import trunc_normal_
from torch import Tensor, nn

from castling.config import Config
from castling.operators.spec import (
    OPERATORS,
    LayerShape,
    OperatorSpec,
    needs_no_class_token,
    projection_macs,
    projection_params,
)


LARGEST_WINDOW = 7
"""Side of the windows in the paper, and the largest that is chosen automatically."""


class SwinOptions(Config):
    """The options of `swin`."""

    window_size: int = Field(default=0, ge=0, le=32)
    """Side of the square windows, which must divide both sides of the grid.

    0 chooses for each side of the grid its largest divisor up to 7; windows may then be oblong.
    """


def window_sides(shape: LayerShape) -> tuple[int, int]:
    """Return height and width of a layer's windows: as given, or the largest that divide."""
    given = SwinOptions.from_data(shape.block.options).window_size
    grid = shape.grid
    return given or _largest_window(grid.height), given or _largest_window(grid.width)


def _largest_window(side: int) -> int:
    return max(window for window in range(1, LARGEST_WINDOW + 1) if side % window == 0)


def shifts(shape: LayerShape) -> tuple[int, int]:
    """Return by how many rows and columns a layer's windows are shifted."""
    grid, (height, width) = shape.grid, window_sides(shape)
    if shape.index % 2 == 0:
        return 0, 0
    return height // 2 if height < grid.height else 0, width // 2 if width < grid.width else 0


class SwinAttention(nn.Module):
    """Shifted window attention (Liu et al., Swin Transformer, ICCV 2021).

    The H x W grid is cut into windows of M x M tokens, and every window attends to itself:

        softmax(q k^T / sqrt(d) + B) v

    B is learned, one number per head and relative position (row and column of the query minus
    those of the key). In layers of odd index the grid is first rolled by M // 2 rows and columns
    upwards and to the left, and rolled back after: windows then straddle the borders of the layer
    before. Tokens that only the rolling has brought into one window do not see each other.

    The paper's M is 7, with padding where it does not divide the grid. Here windows divide it:
    M is given, or chosen for each side of the grid as its largest divisor up to 7. Along a side
    that one window covers there is no shift, as in the release. The paper counts layers within a
    stage; here `LayerShape.index` counts all blocks of the model, whatever their operator. Masked
    scores are minus infinity, where the release adds -100. There is no place for a class token.

    Cost per layer, with N tokens, embed width C, attention width A = h d: 4 N C A + 2 N M^2 A
    MACs, for oblong windows with their number of tokens in place of M^2.
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


def _fits(shape: LayerShape) -> str:
    grid = shape.grid
    pairs = zip((grid.height, grid.width), window_sides(shape), strict=True)
    if all(side % window == 0 and (window > 1 or side == 1) for side, window in pairs):
        return needs_no_class_token(shape)
    sides = f"{grid.height} x {grid.width}"
    if SwinOptions.from_data(shape.block.options).window_size:
        return f"must be one without windows, or window_size must divide {sides} and be above 1"
    return (
        f"must be one without windows, or both sides of {sides} must have a divisor from 2 to "
        f"{LARGEST_WINDOW}, or window_size must be given"
    )


def _macs(shape: LayerShape) -> int:
    height, width = window_sides(shape)
    core = 2 * shape.grid.num_tokens * height * width * shape.block.attention_width
    return projection_macs(shape) + core


def _params(shape: LayerShape) -> int:
    height, width = window_sides(shape)
    table = (2 * height - 1) * (2 * width - 1) * shape.block.num_heads
    return projection_params(shape) + table


OPERATORS.add(
    "swin",
    OperatorSpec(
        summary="Swin: softmax in windows, shifted in layers of odd index; no class token",
        source="Liu et al., Swin Transformer, ICCV 2021",
        build=SwinAttention,
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=SwinOptions,
        check=_fits,
    ),
)
