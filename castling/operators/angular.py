"""The exact angular kernel in quadratic time: what linear-angular attention approximates."""

import math
from contextlib import nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.linear_angular import (
    ConvolvedCore,
    TokenConvolution,
    conv_core_params,
    conv_macs,
    normalize_rows,
)
from castling.operators.spec import (
    OPERATORS,
    CoreShape,
    CoreSpec,
    LayerShape,
    OperatorSpec,
    quadratic_macs,
)


def excess_similarity(cosine: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
    """Return Sim - 1/2 = 1/2 - arccos(x) / pi = arcsin(x) / pi of cosines x.

    A cosine within rounding of 1 or -1 counts as exactly that. There the derivative is infinite;
    the angle has its extreme, and no gradient flows.
    """
    inside = cosine.abs() < 1.0 - 4.0 * torch.finfo(cosine.dtype).eps
    angle = torch.where(inside, cosine, 0.0).asin()  # guarded before: 0 x infinity would be NaN
    return torch.where(inside, angle / math.pi, 0.5 * cosine.sign())


class AngularAttention(nn.Module):
    """Attention by the exact angular kernel (You et al., Castling-ViT, CVPR 2023).

    With Sim(q, k) = 1 - arccos(q.k / |q||k|) / pi, per head:

        y_i = v_i / 2 + sum over j of (Sim(q_i, k_j) - 1/2) v_j
        y   = y / |y| + DWConv(v)

    Sim - 1/2 = x / pi + O(x^3) in the cosine x. With the first term alone this is
    `linear_angular`, whose weights load unchanged: only the kernel differs.

    The paper gives the kernel, and builds its linear part only. Left open, and chosen here: the
    constant 1/2 of the kernel acts on token i alone, as in `linear_angular`, not as a sum over
    tokens; rows of norm zero have no direction, so that Sim is 1/2 and they add nothing; where
    q and k are parallel no gradient flows through their cosine. Cosines are taken in at least
    float32, also under autocast: arccos would turn a rounding of 2^-8 at 1 into 5 degrees.

    Cost per layer, with N tokens, embed width C, attention width A = h d and k taps:
    4 N C A + 2 N^2 A + k N A MACs (k^2 H W A for the 2-D convolution).
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.qkv = nn.Linear(shape.embed_width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.conv = TokenConvolution(block, shape.grid, block.num_heads, block.head_size)
        self.proj = nn.Linear(block.attention_width, shape.embed_width)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = angular(q, k, v, v, None).transpose(1, 2).flatten(2)
        return self.proj(y + self.conv(v.transpose(1, 2).flatten(2)))


def angular(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    own: Float[Tensor, "batch head query value"],
    added: Float[Tensor, "batch head query value"] | None,
) -> Float[Tensor, "batch head query value"]:
    """Return y / |y| of y = own / 2 + (Sim(q, k) - 1/2) v + added.

    Args:
        q: queries.
        k: keys.
        v: values of the keys.
        own: each query's own value, v itself where queries and keys are the same tokens.
        added: what a masked branch adds, if there is one.
    """
    y = 0.5 * own + excess_similarity(_cosines(q, k)).to(v.dtype) @ v
    return normalize_rows(y if added is None else y + added)


def _cosines(
    q: Float[Tensor, "batch head query size"], k: Float[Tensor, "batch head key size"]
) -> Float[Tensor, "batch head query key"]:
    wide = torch.promote_types(q.dtype, torch.float32)
    device = q.device.type
    casts = torch.amp.is_autocast_available(device)  # the meta device has none
    with torch.autocast(device, enabled=False) if casts else nullcontext():
        return normalize_rows(q.to(wide)) @ normalize_rows(k.to(wide)).transpose(-2, -1)


def _macs(shape: LayerShape) -> int:
    linear_core = 2 * shape.grid.num_tokens * shape.block.attention_width * shape.block.head_size
    return OPERATORS["linear_angular"].macs(shape) - linear_core + quadratic_macs(shape)


def _core_macs(shape: CoreShape) -> int:
    num_pairs = shape.queries.num_tokens * shape.keys.num_tokens * shape.num_heads
    width = shape.num_heads * shape.value_size
    products = num_pairs * (shape.key_size + shape.value_size)
    return products + conv_macs(shape.choice, shape.queries, width)


OPERATORS.add(
    "angular",
    OperatorSpec(
        summary="exact angular kernel, quadratic: what linear_angular approximates",
        source="You et al., Castling-ViT, CVPR 2023",
        build=AngularAttention,
        uses=frozenset({"num_heads", "head_size", "conv_kernel", "conv_form", "conv_filters"}),
        macs=_macs,
        params=OPERATORS["linear_angular"].params,
        training_macs=_macs,
        core=CoreSpec(
            build=partial(ConvolvedCore, angular), macs=_core_macs, params=conv_core_params
        ),
    ),
)
