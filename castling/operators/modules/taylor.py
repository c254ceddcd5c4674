"""The module of the operator `taylor`; castling.operators.taylor has the formula."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.modules.auxiliary import AuxiliaryBranch, alive_branch
from castling.operators.spec import (
    CoreShape,
    LayerShape,
)


class TaylorAttention(nn.Module):
    """First-order Taylor attention (Dass et al., ViTALiTy, HPCA 2023).

    The formula and its costs stand in `castling.operators.taylor`.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.qkv = nn.Linear(shape.embed_width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.proj = nn.Linear(block.attention_width, shape.embed_width)
        if block.mask is not None:
            self.auxiliary = AuxiliaryBranch(block.mask, shape.grid.num_tokens)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        branch = alive_branch(self)
        y = taylor(q, k, v, None if branch is None else branch(q, k, v))
        return self.proj(y.transpose(1, 2).flatten(2))


def taylor(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    added: Float[Tensor, "batch head query value"] | None,
) -> Float[Tensor, "batch head query value"]:
    """Return mean(v) + q (kc^T v) / (M sqrt(d)) + added, M keys of size d, per head."""
    centred = k - k.mean(dim=-2, keepdim=True)
    context = centred.transpose(-2, -1) @ v
    denominator = k.shape[-2] * math.sqrt(k.shape[-1])
    y = v.mean(dim=-2, keepdim=True) + (q @ context) / denominator
    return y if added is None else y + added


class TaylorCore(nn.Module):
    """`taylor` for attentions whose projections stay; (N + M) h d e MACs for N queries."""

    def __init__(self, _: CoreShape) -> None:
        super().__init__()

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        added: Float[Tensor, "batch head query value"] | None,
    ) -> Float[Tensor, "batch head query value"]:
        """Mix values by queries and keys, each per head."""
        return taylor(q, k, v, added)
