"""The module of the operator `feat_scale`; castling.operators.feat_scale has the formula."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.spec import (
    LayerShape,
)


class FeatScale(nn.Module):
    """FeatScale (Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022).

    The formula and its costs stand in `castling.operators.feat_scale`.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.num_heads, self.head_size = shape.block.num_heads, shape.block.head_size
        width = shape.block.attention_width
        self.qkv = nn.Linear(shape.embed_width, 3 * width, bias=shape.qkv_bias)
        self.proj = nn.Linear(width, shape.embed_width)
        self.mean_gain = nn.Parameter(torch.zeros(shape.embed_width))
        self.rest_gain = nn.Parameter(torch.zeros(shape.embed_width))

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        mean = y.mean(dim=1, keepdim=True)
        mean_gain, rest_gain = self.mean_gain.to(y.dtype), self.rest_gain.to(y.dtype)
        return y + mean_gain * mean + rest_gain * (y - mean)
