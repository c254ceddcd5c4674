"""Vicinity attention: linear attention that weighs near tokens more, with a feature gate.

Vicinity attention (Sun et al., Vicinity Vision Transformer, TPAMI 2023).

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

from pydantic import Field

from castling.config import Config
from castling.config.limits import WIDEST
from castling.operators.spec import (
    OPERATORS,
    Imported,
    LayerShape,
    OperatorSpec,
    needs_no_class_token,
    projection_macs,
    projection_params,
)


class VicinityOptions(Config):
    """What only vicinity attention has."""

    se_reduction: int = Field(default=2, ge=1, le=WIDEST)
    """Embed width over the gate's hidden width, rounded down to a hidden width of at least 1."""


def gate_width(shape: LayerShape) -> int:
    """Return the hidden width of the gate."""
    reduction = VicinityOptions.from_data(shape.block.options).se_reduction
    return max(1, shape.embed_width // reduction)


def _gate_params(shape: LayerShape) -> int:
    return 2 * shape.embed_width * gate_width(shape)


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
        family="linear",
        build=Imported("castling.operators.modules.vicinity:VicinityAttention"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=VicinityOptions,
        check=needs_no_class_token,
    ),
)
