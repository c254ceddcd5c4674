"""AttnScale: softmax attention whose high-pass part has a learned gain per head."""

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


class AttnScale(nn.Module):
    """AttnScale (Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022).

    Softmax attention A is split into a low pass, the mean over the N tokens, and the rest. The
    rest is amplified by a learned gain w, one per head, initially 0:

        A_lp = 1 1^T / N, A_hp = A - A_lp
        A'   = A_lp + (1 + w) A_hp

    A' v = y + w (y - mean over tokens of v) with y = A v, and so it is computed: A stays inside
    torch's fused kernel, and nothing of size N x N is rescaled.

    The paper leaves open whether a class token counts among the N tokens: it does, as in the
    release. Gains are free in sign and size, and the attention width A = h d is free of the embed
    width C; in the paper both widths are equal.

    Cost per layer: 4 N C A + 2 N^2 A MACs, those of softmax attention; the gain is elementwise.
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


def _params(shape: LayerShape) -> int:
    return projection_params(shape) + shape.block.num_heads


OPERATORS.add(
    "attn_scale",
    OperatorSpec(
        summary="softmax attention with a learned gain on its high-pass part, one per head",
        source="Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022",
        build=AttnScale,
        uses=frozenset({"num_heads", "head_size"}),
        macs=attention_macs,
        params=_params,
        training_macs=attention_macs,
    ),
)
