"""The module of the operator `vicinity`; castling.operators.vicinity has the formula."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.spec import (
    LayerShape,
)
from castling.operators.vicinity import gate_width


SMALLEST_MAGNITUDE, LARGEST_MAGNITUDE = 1e-4, 1e4


DENOMINATOR_FLOOR = 1e-4
"""Added to every denominator: a query that ReLU has emptied gives zero, never NaN."""


def clamp_magnitude(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return x with |x| clamped to [1e-4, 1e4] and the sign kept; zeros stay zero.

    No gradient flows where the clamp acts.
    """
    return x.sign() * x.abs().clamp(SMALLEST_MAGNITUDE, LARGEST_MAGNITUDE)


class FeatureGate(nn.Module):
    """The feature-preserving gate sigmoid(W2 relu(W1 mean_tokens(x))), without biases.

    Costs 2 C max(1, C // se_reduction) MACs, and as many parameters.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch 1 channel"]:
        """Return the gates of x (batch, token, channel), one per image and channel."""
        return self.fc2(self.fc1(x.mean(dim=1, keepdim=True)).relu()).sigmoid()


class VicinityAttention(nn.Module):
    """Vicinity attention (Sun et al., Vicinity Vision Transformer, TPAMI 2023).

    The formula and its costs stand in `castling.operators.vicinity`.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block, width = shape.block, shape.embed_width
        self.grid, self.num_heads, self.head_size = shape.grid, block.num_heads, block.head_size
        self.qkv = nn.Linear(width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.proj = nn.Linear(block.attention_width, width)
        self.gate = FeatureGate(width, gate_width(shape))

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        self.grid.check(x.shape[1])
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        wide = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
        q, k, v = wide.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self._mix(q.relu(), k.relu(), v).transpose(1, 2).flatten(2)
        y = clamp_magnitude(self.proj(mixed.to(qkv.dtype)))
        return clamp_magnitude(y + y * self.gate(x))

    def _mix(
        self,
        q: Float[Tensor, "batch head token size"],
        k: Float[Tensor, "batch head token size"],
        v: Float[Tensor, "batch head token size"],
    ) -> Float[Tensor, "batch head token size"]:
        waves = self._waves(q)
        q, k = ((x.unsqueeze(-2) * waves).flatten(-2) for x in (q, k))
        context = clamp_magnitude(k.transpose(-2, -1) @ v)
        denominator = q @ k.sum(dim=-2).unsqueeze(-1) + DENOMINATOR_FLOOR
        return clamp_magnitude(
            clamp_magnitude(q @ context) * clamp_magnitude(denominator.reciprocal())
        )

    def _waves(self, like: Tensor) -> Float[Tensor, "token 4 1"]:
        """Return cos a, sin a, cos b, sin b of every token, in the type and place of `like`."""
        height, width = self.grid.height, self.grid.width
        rows = torch.arange(height, device=like.device, dtype=like.dtype) * (
            0.5 * math.pi / height
        )
        columns = torch.arange(width, device=like.device, dtype=like.dtype) * (
            0.5 * math.pi / width
        )
        a, b = rows.repeat_interleave(width), columns.repeat(height)
        return torch.stack([a.cos(), a.sin(), b.cos(), b.sin()], dim=-1).unsqueeze(-1)
