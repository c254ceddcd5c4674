"""The module of the operator `attn_scale`; castling.operators.attn_scale has the formula."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.spec import (
    LayerShape,
)


class AttnScale(nn.Module):
    """AttnScale (Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022).

    The formula and its costs stand in `castling.operators.attn_scale`.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.num_heads, self.head_size = shape.block.num_heads, shape.block.head_size
        width = shape.block.attention_width
        self.qkv = nn.Linear(shape.embed_width, 3 * width, bias=shape.qkv_bias)
        self.lamb = nn.Parameter(torch.zeros(self.num_heads))
        self.proj = nn.Linear(width, shape.embed_width)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        gain = self.lamb.to(y.dtype)[:, None, None]
        y = y + gain * (y - v.mean(dim=-2, keepdim=True))
        return self.proj(y.transpose(1, 2).flatten(2))
