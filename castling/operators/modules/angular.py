"""The module of the operator `angular`; castling.operators.angular has the formula."""

import math
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.modules.linear_angular import (
    ConvolvedCore,
    TokenConvolution,
    normalize_rows,
)
from castling.operators.spec import (
    CoreShape,
    LayerShape,
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

    The formula and its costs stand in `castling.operators.angular`.
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
        own: the value of each query, v itself if queries and keys are the same tokens.
        added: what a masked branch adds, if there is one.
    """
    y = 0.5 * own + excess_similarity(_cosines(q, k)).to(v.dtype) @ v
    return normalize_rows(y if added is None else y + added)


class AngularCore(ConvolvedCore):
    """The `ConvolvedCore` of `angular`."""

    def __init__(self, shape: CoreShape) -> None:
        super().__init__(angular, shape)


def _cosines(
    q: Float[Tensor, "batch head query size"], k: Float[Tensor, "batch head key size"]
) -> Float[Tensor, "batch head query key"]:
    wide = torch.promote_types(q.dtype, torch.float32)
    device = q.device.type
    casts = torch.amp.is_autocast_available(device)  # the meta device has none
    with torch.autocast(device, enabled=False) if casts else nullcontext():
        return normalize_rows(q.to(wide)) @ normalize_rows(k.to(wide)).transpose(-2, -1)
