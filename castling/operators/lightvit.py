"""LightViT's attention: softmax in local windows, plus global tokens that gather and broadcast."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from timm.layers import trunc_normal_
from torch import Tensor, nn

from castling.config import Config
from castling.limits import MOST_TOKENS
from castling.operators.spec import OPERATORS, LayerShape, OperatorSpec


LARGEST_WINDOW = 7
"""Side of the windows in the paper, and the largest that is chosen automatically."""


class LightViTOptions(Config):
    """The options of `lightvit`."""

    num_global_tokens: int = Field(default=4, ge=1, le=MOST_TOKENS)
    """Learned tokens that gather from all image tokens and broadcast to them."""
    window_size: int = Field(default=0, ge=0, le=32)
    """Side of the local windows; 0 takes the largest common divisor of the sides up to 7."""


def window_side(shape: LayerShape) -> int:
    """Return the side of a layer's windows: as given, else the largest that divides the grid."""
    given = _options(shape).window_size
    shared = math.gcd(shape.grid.height, shape.grid.width)
    return given or max(side for side in range(1, LARGEST_WINDOW + 1) if shared % side == 0)


class LightViTAttention(nn.Module):
    """Local window attention with global aggregation (Huang et al., LightViT, 2022).

    One projection gives q, k, v of G global tokens, which come first, and of N image tokens. With
    attend(q, k, v) = softmax(q k^T / sqrt(d)) v per head:

        local     = attend(q, k, v) in M x M windows, with a learned relative position bias
        gathered  = attend(q_global, k, v)
        broadcast = attend(q, k', v')  with k', v' = Linear(gathered)

    Image tokens become local + broadcast, global tokens become gathered; then the projection.

    The paper carries the global tokens from block to block. Here each layer has its own, learned,
    and drops them from its output: a layer keeps the shape of its tokens, so it can stand next to
    any other operator. They stand after the block's norm and start at the size it gives, N(0, 1).
    A class token, which the paper does not have, is one more global token: it gathers from the
    image and broadcasts to it. The paper's fixed windows of 7 need padding where they do not
    divide the grid; here windows divide it, and hold at least 2 x 2 tokens.

    Cost per layer, with embed width C, attention width A = h d and P class tokens among the G:
    3 (N + G) C A + 2 N M^2 A + 4 N G A + 2 G A^2 + (N + P) A C MACs.
    """

    relative_position: Tensor

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block, options = shape.block, _options(shape)
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.grid, self.window = shape.grid, window_side(shape)
        self.rows, self.columns = (
            side // self.window for side in (shape.grid.height, shape.grid.width)
        )
        width = block.attention_width
        self.global_tokens = nn.Parameter(
            torch.randn(1, options.num_global_tokens, shape.embed_width)
        )
        self.qkv = nn.Linear(shape.embed_width, 3 * width, bias=shape.qkv_bias)
        self.kv_global = nn.Linear(width, 2 * width, bias=shape.qkv_bias)
        self.position_bias = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, self.num_heads))
        trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer("relative_position", offsets(self.window), persistent=False)
        self.proj = nn.Linear(width, shape.embed_width)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        self.grid.check(x.shape[1])
        learned = self.global_tokens.expand(x.shape[0], -1, -1)
        mixed = self.mix(torch.cat([learned, x], dim=1))
        return self.proj(mixed[:, learned.shape[1] :])

    def mix(
        self, tokens: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token width"]:
        """Mix a sequence of global tokens, then image tokens, up to the output projection."""
        q, k, v = self._heads(self.qkv(tokens), 3)
        num_global = tokens.shape[1] - self.rows * self.columns * self.window**2
        q_global, q = q[:, :, :num_global], q[:, :, num_global:]
        k, v = k[:, :, num_global:], v[:, :, num_global:]
        gathered = _merge_heads(F.scaled_dot_product_attention(q_global, k, v))
        k_global, v_global = self._heads(self.kv_global(gathered), 2)
        broadcast = F.scaled_dot_product_attention(q, k_global, v_global)
        image = _merge_heads(self._local(q, k, v) + broadcast)
        return torch.cat([gathered, image], dim=1)

    def _heads(
        self, x: Float[Tensor, "batch token width"], parts: int
    ) -> tuple[Float[Tensor, "batch head token size"], ...]:
        split = x.unflatten(-1, (parts, self.num_heads, self.head_size))
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _local(
        self,
        q: Float[Tensor, "batch head token size"],
        k: Float[Tensor, "batch head token size"],
        v: Float[Tensor, "batch head token size"],
    ) -> Float[Tensor, "batch head token size"]:
        bias = self.position_bias[self.relative_position].permute(2, 0, 1).to(q.dtype)
        q, k, v = self._cut(q), self._cut(k), self._cut(v)
        return self._join(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))

    def _cut(
        self, x: Float[Tensor, "batch head token size"]
    ) -> Float[Tensor, "window head member size"]:
        grid = x.unflatten(2, (self.rows, self.window, self.columns, self.window))
        return grid.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)

    def _join(
        self, x: Float[Tensor, "window head member size"]
    ) -> Float[Tensor, "batch head token size"]:
        windows = x.unflatten(0, (-1, self.rows, self.columns))
        members = windows.unflatten(4, (self.window, self.window))
        return members.permute(0, 3, 1, 4, 2, 5, 6).flatten(2, 5)


def offsets(side: int) -> Int[Tensor, "member member"]:
    """Return, for query and key of a window, the row of the bias table: by (down, right)."""
    row = torch.arange(side).repeat_interleave(side)
    column = torch.arange(side).repeat(side)
    down = row[:, None] - row[None, :] + side - 1
    right = column[:, None] - column[None, :] + side - 1
    return down * (2 * side - 1) + right


def _merge_heads(
    x: Float[Tensor, "batch head token size"],
) -> Float[Tensor, "batch token width"]:
    return x.transpose(1, 2).flatten(2)


def _options(shape: LayerShape) -> LightViTOptions:
    return LightViTOptions.from_data(shape.block.options)


def _fits(shape: LayerShape) -> str:
    side, grid = window_side(shape), shape.grid
    if side >= 2 and grid.height % side == 0 and grid.width % side == 0:
        return ""
    sides = f"{grid.height} x {grid.width}"
    if _options(shape).window_size:
        return f"must be one without windows, or window_size must divide {sides} and be above 1"
    return (
        f"must be one without windows, or the sides {sides} must have a common divisor from 2 to "
        f"{LARGEST_WINDOW}"
    )


def _macs(shape: LayerShape) -> int:
    num_learned, prefix = _options(shape).num_global_tokens, shape.grid.num_prefix
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
    return weights + biases + table + _options(shape).num_global_tokens * embed


OPERATORS.add(
    "lightvit",
    OperatorSpec(
        summary="LightViT: softmax in windows, plus global tokens that gather and broadcast",
        source="Huang et al., LightViT: Towards Light-Weight Convolution-Free ViTs, 2022",
        build=LightViTAttention,
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=LightViTOptions,
        check=_fits,
    ),
)
