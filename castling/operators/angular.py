"""The exact angular kernel in quadratic time: what linear-angular attention approximates.

Attention by the exact angular kernel (You et al., Castling-ViT, CVPR 2023).

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

from castling.operators.linear_angular import conv_core_params, conv_macs
from castling.operators.spec import (
    OPERATORS,
    CoreShape,
    CoreSpec,
    Imported,
    LayerShape,
    OperatorSpec,
    quadratic_macs,
)


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
        family="quadratic",
        build=Imported("castling.operators.modules.angular:AngularAttention"),
        uses=frozenset({"num_heads", "head_size", "conv_kernel", "conv_form", "conv_filters"}),
        free=frozenset({"aten::asin"}),
        macs=_macs,
        params=OPERATORS["linear_angular"].params,
        training_macs=_macs,
        core=CoreSpec(
            build=Imported("castling.operators.modules.angular:AngularCore"),
            macs=_core_macs,
            params=conv_core_params,
        ),
    ),
)
