"""LightViT's attention: softmax in local windows, plus global tokens that gather and broadcast.

Local window attention with global aggregation (Huang et al., LightViT, 2022).

One projection gives q, k, v of G global tokens, which come first, and of N image tokens. With
attend(q, k, v) = softmax(q k^T / sqrt(d)) v per head:

    local     = attend(q, k, v) in M x M windows, with a learned relative position bias
    gathered  = attend(q_global, k, v)
    broadcast = attend(q, k', v')  with k', v' = Linear(gathered)

Image tokens become local + broadcast, global tokens become gathered; then the projection.

The paper carries the global tokens from block to block. Here each layer learns its global tokens
and drops them from its output: a layer keeps the shape of its tokens, so it can be combined with
any other operator. They stand after the block's norm and start at the size it gives, N(0, 1). A
class token, which the paper does not have, is one more global token: it gathers from the image and
broadcasts to it. The paper's fixed windows of 7 need padding where they do not divide the grid;
here windows divide it, and hold at least 2 x 2 tokens.

Cost per layer, with embed width C, attention width A = h d and P class tokens among the G:
3 (N + G) C A + 2 N M^2 A + 4 N G A + 2 G A^2 + (N + P) A C MACs.
"""

import math

from pydantic import Field

from castling.config import Config
from castling.config.limits import MOST_TOKENS
from castling.operators.spec import OPERATORS, Imported, LayerShape, OperatorSpec


LARGEST_WINDOW = 7
"""Side of the windows in the paper, and the largest that is chosen automatically."""


class LightViTOptions(Config):
    """The options of `lightvit`."""

    num_global_tokens: int = Field(default=4, ge=1, le=MOST_TOKENS)
    """Learned tokens that gather from all image tokens and broadcast to them."""
    window_size: int = Field(default=0, ge=0, le=32)
    """Side of the local windows; 0 takes the largest common divisor of the sides up to 7."""


def window_side(shape: LayerShape) -> int:
    """Return the side of a layer's windows: `window_size`, else the largest that divides."""
    side = options_of(shape).window_size
    shared = math.gcd(shape.grid.height, shape.grid.width)
    return side or max(side for side in range(1, LARGEST_WINDOW + 1) if shared % side == 0)


def options_of(shape: LayerShape) -> LightViTOptions:
    """Return a layer's options, those left out at their defaults."""
    return LightViTOptions.from_data(shape.block.options)


def _fits(shape: LayerShape) -> str:
    side, grid = window_side(shape), shape.grid
    if side >= 2 and grid.height % side == 0 and grid.width % side == 0:
        return ""
    sides = f"{grid.height} x {grid.width}"
    if options_of(shape).window_size:
        return f"must be one without windows, or window_size must divide {sides} and be above 1"
    return (
        f"must be one without windows, or the sides {sides} must have a common divisor from 2 to "
        f"{LARGEST_WINDOW}"
    )


def _macs(shape: LayerShape) -> int:
    num_learned, prefix = options_of(shape).num_global_tokens, shape.grid.num_prefix
    image, num_global = shape.grid.height * shape.grid.width, num_learned + prefix
    embed, width = shape.embed_width, shape.block.attention_width
    projections = 3 * (image + num_global) * embed * width + (image + prefix) * width * embed
    local = 2 * image * window_side(shape) ** 2 * width
    return projections + local + 4 * image * num_global * width + 2 * num_global * width**2


def _params(shape: LayerShape) -> int:
    embed, width = shape.embed_width, shape.block.attention_width
    weights = 4 * embed * width + 2 * width**2
    biases = (5 * width if shape.qkv_bias else 0) + embed
    table = (2 * window_side(shape) - 1) ** 2 * shape.block.num_heads
    return weights + biases + table + options_of(shape).num_global_tokens * embed


OPERATORS.add(
    "lightvit",
    OperatorSpec(
        summary="LightViT: softmax in windows, plus global tokens that gather and broadcast",
        source="Huang et al., LightViT: Towards Light-Weight Convolution-Free ViTs, 2022",
        family="local",
        build=Imported("castling.operators.modules.lightvit:LightViTAttention"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=LightViTOptions,
        check=_fits,
    ),
)
