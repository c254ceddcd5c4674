"""FeatScale: softmax attention whose output has learned gains on its mean and on the rest."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.spec import (
    OPERATORS,
    LayerShape,
    OperatorSpec,
    attention_macs,
    projection_params,
)


class FeatScale(nn.Module):
    """FeatScale (Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022).

    The output y of softmax attention is split into its mean over tokens and the rest, and both
    are re-weighted per channel, with s and t initially 0:

        y_dc = mean over tokens of y, y_hf = y - y_dc
        y'   = y + s y_dc + t y_hf

    The paper's "output of attention" is read as that after the projection, as in the release: s
    and t belong to the C embed channels, also where the attention width A = h d differs from C
    (before the projection they would be A numbers, and its bias would escape s). The paper leaves
    open whether a class token counts in the mean: it does, as in the release. One of the released
    files adds the two terms twice; here, as in the paper, once.

    Cost per layer: 4 N C A + 2 N^2 A MACs, those of softmax attention; the 2 N C products with
    the gains are elementwise.
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


def _params(shape: LayerShape) -> int:
    return projection_params(shape) + 2 * shape.embed_width


OPERATORS.add(
    "feat_scale",
    OperatorSpec(
        summary="softmax attention with learned gains on its output's mean and on the rest",
        source="Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022",
        build=FeatScale,
        uses=frozenset({"num_heads", "head_size"}),
        macs=attention_macs,
        params=_params,
        training_macs=attention_macs,
    ),
)
