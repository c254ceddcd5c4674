"""The module of the operator `performer`; castling.operators.performer has the formula."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.performer import num_features
from castling.operators.spec import (
    CoreShape,
    LayerShape,
)


FEATURE_FLOOR = 1e-4
"""Added to every random feature: no row of features, hence no denominator, can vanish."""


def orthogonal_rows(num_rows: int, size: int) -> Float[Tensor, "num_rows size"]:
    """Draw random rows, orthogonal within every `size` of them, as long as Gaussian rows are.

    Drawn from torch's global generator: the directions of a block are uniformly distributed (QR
    of a Gaussian matrix, signs of R's diagonal moved to Q), the lengths those of independent
    standard normal rows of the same size.
    """
    blocks = []
    for _ in range(0, num_rows, size):
        q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
        blocks.append(q * r.diagonal().sign())
    lengths = torch.randn(num_rows, size, dtype=torch.float64).norm(dim=1, keepdim=True)
    return (torch.cat(blocks)[:num_rows] * lengths).to(torch.get_default_dtype())


class PerformerAttention(nn.Module):
    """FAVOR+ attention (Choromanski et al., Rethinking Attention with Performers, ICLR 2021).

    The formula and its costs stand in `castling.operators.performer`.
    """

    projection: Tensor

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.qkv = nn.Linear(shape.embed_width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.proj = nn.Linear(block.attention_width, shape.embed_width)
        rows = orthogonal_rows(num_features(block, block.head_size), block.head_size)
        self.register_buffer("projection", rows)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(performer(q, k, v, self.projection).transpose(1, 2).flatten(2))


def performer(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    projection: Float[Tensor, "feature size"],
) -> Float[Tensor, "batch head query value"]:
    """Return phi(q) (phi(k)^T v) / (phi(q) . sum_keys(phi(k))), at least in float32 within."""
    wide = torch.promote_types(q.dtype, torch.float32)
    queries = _features(q.to(wide), projection, (-1,))
    keys = _features(k.to(wide), projection, (-3, -2, -1))
    denominator = queries @ keys.sum(dim=-2).unsqueeze(-1)
    return ((queries @ (keys.transpose(-2, -1) @ v.to(wide))) / denominator).to(v.dtype)


def _features(
    x: Float[Tensor, "batch head token size"],
    projection: Float[Tensor, "feature size"],
    max_over: tuple[int, ...],
) -> Float[Tensor, "batch head token feature"]:
    scaled = x * x.shape[-1] ** -0.25
    projected = scaled @ projection.to(x.dtype).transpose(0, 1)
    largest = projected.detach().amax(dim=max_over, keepdim=True)
    half_norm = 0.5 * scaled.square().sum(dim=-1, keepdim=True)
    return torch.exp(projected - half_norm - largest) + FEATURE_FLOOR


class PerformerCore(nn.Module):
    """`performer` for attentions whose projections stay; queries may be fewer.

    Cost, with N queries, M keys, heads h, sizes d and e of key and value, and m features:
    h m ((N + M) (d + e) + N) MACs.
    """

    projection: Tensor

    def __init__(self, shape: CoreShape) -> None:
        super().__init__()
        rows = orthogonal_rows(num_features(shape.choice, shape.key_size), shape.key_size)
        self.register_buffer("projection", rows)

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        added: Float[Tensor, "batch head query value"] | None,
    ) -> Float[Tensor, "batch head query value"]:
        """Mix values by queries and keys, each per head."""
        mixed = performer(q, k, v, self.projection)
        return mixed if added is None else mixed + added
