"""Swin's attention: softmax in windows with a position bias, shifted in every other layer.

Shifted window attention (Liu et al., Swin Transformer, ICCV 2021).

The H x W grid is cut into windows of M x M tokens, and every window attends to itself:

    softmax(q k^T / sqrt(d) + B) v

B is learned, one number per head and relative position (row and column of the query minus
those of the key). In layers of odd index the grid is first rolled by M // 2 rows and columns
upwards and to the left, and rolled back after: windows then straddle the borders of the layer
before. Tokens that only the rolling has brought into one window do not see each other.

The paper's M is 7, with padding where it does not divide the grid. Here windows divide it:
M is `window_size`, or for each side of the grid its largest divisor up to 7. Along a side
that one window covers there is no shift, as in the release. The paper counts layers within a
stage; here `LayerShape.index` counts all blocks of the model, whatever their operator. Masked
scores are minus infinity, where the release adds -100. There is no place for a class token.

Cost per layer, with N tokens, embed width C, attention width A = h d: 4 N C A + 2 N M^2 A
MACs, for oblong windows with their number of tokens in place of M^2.
"""

from pydantic import Field

from castling.config import Config
from castling.operators.spec import (
    OPERATORS,
    Imported,
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
    """Return height and width of a layer's windows: `window_size`, or the largest that divide."""
    side = SwinOptions.from_data(shape.block.options).window_size
    grid = shape.grid
    return side or _largest_window(grid.height), side or _largest_window(grid.width)


def _largest_window(side: int) -> int:
    return max(window for window in range(1, LARGEST_WINDOW + 1) if side % window == 0)


def shifts(shape: LayerShape) -> tuple[int, int]:
    """Return by how many rows and columns a layer's windows are shifted."""
    grid, (height, width) = shape.grid, window_sides(shape)
    if shape.index % 2 == 0:
        return 0, 0
    return height // 2 if height < grid.height else 0, width // 2 if width < grid.width else 0


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
        family="local",
        build=Imported("castling.operators.modules.swin:SwinAttention"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=SwinOptions,
        check=_fits,
    ),
)
