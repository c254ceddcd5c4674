"""SPViT's single path: attention whose gates may replace it by a convolution or nothing.

Softmax attention with three ordered gates, each of which admits the next candidate.

Source: He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021. The
candidates skip < 1x1 bottleneck < 3x3 bottleneck < attention share the attention's weights.
With gates g_1, g_2, g_3 (`Gates`) and c_i = g_1 ... g_i the candidates' weights are 1 - c_1,
c_1 - c_2, c_2 - c_3 and c_3: of which exactly one is 1. In training mode all candidates are
computed, so that the straight-through gradient sees them; in eval mode only the one that the
gates decide for. x and the result are (batch, token, channel).

The loss has a penalty (`cost_penalty`) that pulls the expected MACs of all gated modules to a
target. The paper takes the cost of the drawn gates in GFLOPs; here it is the expectation, as a
fraction, so that one weight serves models of every size. Scores and batch norms of the two
convolutions are separate (the release shares nine scores, of which 1x1 reads the fifth).
`settle` turns the chosen candidate into an independent operator, with its trained weights.

Cost per layer: that of softmax attention while the gates choose it; in training mode also that of
both bottlenecks.
"""

from castling.operators.spec import (
    OPERATORS,
    Imported,
    LayerShape,
    OperatorSpec,
    attention_macs,
    projection_params,
)
from castling.operators.spvit import SpvitOptions, serves


CANDIDATES = ("skip", "spvit_conv1", "spvit_conv3", "softmax")
"""Operators that a gated layer settles to, cheapest first."""


def _params(shape: LayerShape) -> int:
    heads, size = shape.block.num_heads, shape.block.head_size
    scores, norms, gates = heads * (1 + 9), 2 * 2 * size, len(CANDIDATES) - 1
    return projection_params(shape) + scores + norms + gates


OPERATORS.add(
    "spvit_gated",
    OperatorSpec(
        summary="SPViT: gates that shrink attention to a convolution or nothing while it trains",
        source="He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021",
        family="quadratic",
        build=Imported("castling.operators.modules.spvit_gated:GatedSinglePath"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=attention_macs,
        params=_params,
        training_macs=attention_macs,
        options=SpvitOptions,
        check=serves,
        searchable=False,
    ),
)
