"""AttnScale: softmax attention whose high-pass part has a learned gain per head.

AttnScale (Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022).

Softmax attention A is split into a low pass, the mean over the N tokens, and the rest. The
rest is amplified by a learned gain w, one per head, initially 0:

    A_lp = 1 1^T / N, A_hp = A - A_lp
    A'   = A_lp + (1 + w) A_hp

A' v = y + w (y - mean over tokens of v) with y = A v, and so it is computed: A stays inside
torch's fused kernel, and nothing of size N x N is rescaled.

The paper leaves open whether a class token counts among the N tokens: it does, as in the
release. Gains are free in sign and size, and the attention width A = h d is free of the embed
width C; in the paper both widths are equal.

Cost per layer: 4 N C A + 2 N^2 A MACs, those of softmax attention; the gain is elementwise.
"""

from castling.operators.spec import (
    OPERATORS,
    Imported,
    LayerShape,
    OperatorSpec,
    attention_macs,
    projection_params,
)


def _params(shape: LayerShape) -> int:
    return projection_params(shape) + shape.block.num_heads


OPERATORS.add(
    "attn_scale",
    OperatorSpec(
        summary="softmax attention with a learned gain on its high-pass part, one per head",
        source="Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022",
        family="quadratic",
        build=Imported("castling.operators.modules.attn_scale:AttnScale"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=attention_macs,
        params=_params,
        training_macs=attention_macs,
    ),
)
