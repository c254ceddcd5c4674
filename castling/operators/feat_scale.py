"""FeatScale: softmax attention whose output has learned gains on its mean and on the rest.

FeatScale (Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022).

The output y of softmax attention is split into its mean over tokens and the rest, and both
are re-weighted per channel, with s and t initially 0:

    y_dc = mean over tokens of y, y_hf = y - y_dc
    y'   = y + s y_dc + t y_hf

The paper's "output of attention" is read as that after the projection, as in the release: s
and t belong to the C embed channels, also where the attention width A = h d differs from C
(before the projection they would be A numbers, and its bias would escape s). The paper leaves
open whether a class token counts in the mean: it does, as in the release. One of the released
files adds the two terms twice; here, as in the paper, once.

Cost per layer: 4 N C A + 2 N^2 A MACs, those of softmax attention; the 2 N C products with
the gains are elementwise.
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
    return projection_params(shape) + 2 * shape.embed_width


OPERATORS.add(
    "feat_scale",
    OperatorSpec(
        summary="softmax attention with learned gains on its output's mean and on the rest",
        source="Wang et al., Anti-Oversmoothing in Deep Vision Transformers, ICLR 2022",
        family="quadratic",
        build=Imported("castling.operators.modules.feat_scale:FeatScale"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=attention_macs,
        params=_params,
        training_macs=attention_macs,
    ),
)
