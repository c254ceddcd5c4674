"""The module of the operator `gvt`; castling.operators.gvt has the formula."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from castling.operators.gvt import pool_side
from castling.operators.modules.linear_angular import normalize_rows
from castling.operators.spec import (
    LayerShape,
    TokenGrid,
)


def neighbours(grid: TokenGrid) -> Bool[Tensor, "token token"]:
    """Return A_I + I: whether tokens are the same or among the 8 around each other.

    Every class token is a neighbour of every token.
    """
    prefix = grid.num_prefix
    index = torch.arange(grid.height * grid.width)
    row, column = index // grid.width, index % grid.width
    near = torch.ones(grid.num_tokens, grid.num_tokens, dtype=torch.bool)
    near[prefix:, prefix:] = ((row[:, None] - row).abs() <= 1) & (
        (column[:, None] - column).abs() <= 1
    )
    return near


class GraphAttention(nn.Module):
    """GvT's attention between graph convolutions, with heads that talk.

    The formula and its costs stand in `castling.operators.gvt`.
    """

    neighbours: Tensor

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block, width = shape.block, shape.embed_width
        self.grid, self.pool = shape.grid, pool_side(shape)
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.q = nn.Linear(width, block.attention_width, bias=shape.qkv_bias)
        self.k = nn.Linear(width, block.attention_width, bias=shape.qkv_bias)
        self.v = nn.Linear(width, block.attention_width, bias=shape.qkv_bias)
        self.talk = nn.Parameter(torch.eye(block.num_heads))
        self.proj = nn.Linear(block.attention_width, width)
        self.register_buffer("neighbours", neighbours(shape.grid), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        self.grid.check(x.shape[1])
        near = self._graph(x) @ x
        q, k = self._heads(self.q(near)), self._heads(self.k(self._pooled(near)))
        v = self._heads(self.v(self._pooled(x)))
        scores = q @ k.transpose(-2, -1) * (1.0 / math.sqrt(self.head_size))
        attention = scores.softmax(dim=-1)
        mixed = (self.talk @ attention.flatten(2)).unflatten(2, attention.shape[2:])
        return self.proj((mixed @ v).transpose(1, 2).flatten(2))

    def _graph(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token token"]:
        """Return D^-1/2 A D^-1/2, from the cosines on in at least float32."""
        direction = normalize_rows(x)
        cosines = direction @ direction.transpose(-2, -1)
        wide = cosines.to(torch.promote_types(cosines.dtype, torch.float32))
        edges = torch.where(self.neighbours, wide.softmax(dim=-1), 0.0)
        scale = edges.sum(dim=-1).rsqrt()
        return (edges * scale.unsqueeze(-1) * scale.unsqueeze(-2)).to(x.dtype)

    def _pooled(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch kept channel"]:
        if self.pool == 1:
            return x
        height, width = self.grid.height, self.grid.width
        prefix, image = x.split([self.grid.num_prefix, height * width], dim=1)
        cells = (height // self.pool, self.pool, width // self.pool, self.pool)
        return torch.cat([prefix, image.unflatten(1, cells).mean(dim=(2, 4)).flatten(1, 2)], dim=1)

    def _heads(
        self, x: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch head token size"]:
        return x.unflatten(-1, (self.num_heads, self.head_size)).transpose(1, 2)
