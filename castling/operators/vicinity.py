"""Vicinity attention: linear attention that weighs near tokens more, with a feature gate."""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from castling.config import Config
from castling.limits import WIDEST
from castling.operators.spec import (
    OPERATORS,
    LayerShape,
    OperatorSpec,
    needs_no_class_token,
    projection_macs,
    projection_params,
)


SMALLEST_MAGNITUDE, LARGEST_MAGNITUDE = 1e-4, 1e4
DENOMINATOR_FLOOR = 1e-4
"""Added to every denominator: a query that ReLU has emptied gives zero, never NaN."""


class VicinityOptions(Config):
    """What only vicinity attention has."""

    se_reduction: int = Field(default=2, ge=1, le=WIDEST)
    """Embed width over the gate's hidden width, rounded down to a hidden width of at least 1."""


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

    A linear attention whose weights fall with the distance on the H x W grid. Token i in row r
    and column c has the angles a_i = (pi / 2) r / H and b_i = (pi / 2) c / W. Per head, with q
    and k after ReLU:

        q' = [q cos a, q sin a, q cos b, q sin b], k' likewise, both (token, 4 d)
        y  = q' (k'^T v) / (q' . sum_tokens(k') + 1e-4)

    so that w_ij = q_i . k_j (cos(a_i - a_j) + cos(b_i - b_j)). The output projection follows, and
    the gate: out = y + y * sigmoid(W2 relu(W1 mean_tokens(x))). As in the release, magnitudes are
    clamped to [1e-4, 1e4] after each of the six steps k'^T v, 1 / denominator, q' (k'^T v), the
    division, the projection and the gate; zeros stay zero. x and out are (batch, token, channel).

    Choices. The paper's feature reduction fr is the attention width, A = C / fr, here free of C.
    The paper is silent on class tokens, which have no place on the grid: a layer with one is
    refused. The gate's hidden width is C // se_reduction, at least 1. Mixing is computed in at
    least float32.

    Cost per layer, with N tokens, embed width C, attention width A = h d and the gate's hidden
    width r: 4 N C A + 8 N A d + 4 N A + 2 C r MACs.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block, width = shape.block, shape.embed_width
        self.grid, self.num_heads, self.head_size = shape.grid, block.num_heads, block.head_size
        self.qkv = nn.Linear(width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.proj = nn.Linear(block.attention_width, width)
        self.gate = FeatureGate(width, _gate_width(shape))

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


def _gate_width(shape: LayerShape) -> int:
    reduction = VicinityOptions.from_data(shape.block.options).se_reduction
    return max(1, shape.embed_width // reduction)


def _gate_params(shape: LayerShape) -> int:
    return 2 * shape.embed_width * _gate_width(shape)


def _macs(shape: LayerShape) -> int:
    block = shape.block
    core = shape.grid.num_tokens * block.attention_width * (8 * block.head_size + 4)
    return projection_macs(shape) + core + _gate_params(shape)


def _params(shape: LayerShape) -> int:
    return projection_params(shape) + _gate_params(shape)


OPERATORS.add(
    "vicinity",
    OperatorSpec(
        summary="VVT: linear attention that favours near tokens of the grid, and a feature gate",
        source="Sun et al., Vicinity Vision Transformer, TPAMI 2023",
        build=VicinityAttention,
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=VicinityOptions,
        check=needs_no_class_token,
    ),
)
