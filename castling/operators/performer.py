"""Performer's FAVOR+ attention: softmax attention estimated by positive random features.

FAVOR+ attention (Choromanski et al., Rethinking Attention with Performers, ICLR 2021).

The exponential kernel exp(q . k / sqrt(d)) is estimated by m positive random features. Per
head, with W the (m, d) projection:

    phi(x) = exp(W x / d^(1/4) - |x|^2 / (2 sqrt(d)) - max) + 1e-4
    y      = phi(q) (phi(k)^T v) / (phi(q) . sum_tokens(phi(k)))

max is over the features of a query's row and, for the keys, over everything of the image:
heads, tokens and features. The factor m^(-1/2) of phi cancels and is left out. q, k, v and y
are (batch, head, token, head channel).

Choices. The paper redraws W now and then; here it is drawn once, when the layer is built, is
shared by the layer's heads, is not trained and is saved in the state dict. The release takes
the keys' maximum over the whole batch, where through the 1e-4 images change one another's
output; here an image is alone. No gradient flows through a maximum, which would cancel but
for the 1e-4. Features are computed in at least float32: bfloat16 would round the exponent.

Cost per layer, with N tokens, embed width C, attention width A = h d:
4 N C A + 4 N A m + h N m MACs; W's m d numbers are no parameters.
"""

import math

from pydantic import Field

from castling.config import Config, LayerChoice
from castling.operators.spec import (
    OPERATORS,
    CoreShape,
    CoreSpec,
    Imported,
    LayerShape,
    OperatorSpec,
    core_shape,
    projection_macs,
    projection_params,
)


class PerformerOptions(Config):
    """The options of `performer`."""

    num_features: int = Field(default=0, ge=0, le=4_096)
    """Random features m per head; 0 takes int(d ln d) for head size d, at least 1."""


def num_features(choice: LayerChoice, size: int) -> int:
    """Return the random features per head, for heads of a size."""
    chosen = PerformerOptions.from_data(choice.options).num_features
    return chosen or max(1, int(size * math.log(size)))


def _core_macs(shape: CoreShape) -> int:
    queries, keys = shape.queries.num_tokens, shape.keys.num_tokens
    products = (queries + keys) * (shape.key_size + shape.value_size)
    features = num_features(shape.choice, shape.key_size)
    return shape.num_heads * features * (products + queries)


def _macs(shape: LayerShape) -> int:
    return projection_macs(shape) + _core_macs(core_shape(shape))


OPERATORS.add(
    "performer",
    OperatorSpec(
        summary="Performer (FAVOR+): softmax estimated by positive orthogonal random features",
        source="Choromanski et al., Rethinking Attention with Performers, ICLR 2021",
        family="linear",
        build=Imported("castling.operators.modules.performer:PerformerAttention"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=projection_params,
        training_macs=_macs,
        options=PerformerOptions,
        core=CoreSpec(
            build=Imported("castling.operators.modules.performer:PerformerCore"),
            macs=_core_macs,
            params=lambda _: 0,
        ),
    ),
)
