"""Softmax attention, computed by torch's fused kernel: the quadratic baseline.

Multi-head attention softmax(q k^T / sqrt(d)) v (Vaswani et al., 2017).

The attention width h x d is free of the embed width; parameter names are those of timm's
`Attention`, so that its weights load unchanged when the two are equal.

Cost per layer, with N tokens, embed width C, attention width A: 4 N C A + 2 N^2 A MACs.
"""

from castling.operators.spec import (
    OPERATORS,
    Imported,
    OperatorSpec,
    attention_macs,
    projection_params,
)


OPERATORS.add(
    "softmax",
    OperatorSpec(
        summary="softmax attention, fused; the quadratic baseline",
        source="Vaswani et al., Attention Is All You Need, 2017",
        family="quadratic",
        code="SM",
        build=Imported("castling.operators.modules.softmax:SoftmaxAttention"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=attention_macs,
        params=projection_params,
        training_macs=attention_macs,
    ),
)
