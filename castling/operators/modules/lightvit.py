"""The module of the operator `lightvit`; castling.operators.lightvit has the formula."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers import trunc_normal_
from torch import Tensor, nn

from castling.operators.lightvit import options_of, window_side
from castling.operators.spec import LayerShape


class LightViTAttention(nn.Module):
    """Local window attention with global aggregation (Huang et al., LightViT, 2022).

    The formula and its costs stand in `castling.operators.lightvit`.
    """

    relative_position: Tensor

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block, options = shape.block, options_of(shape)
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
