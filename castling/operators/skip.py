"""No token mixing at all: the block's residual connection alone, SPViT's cheapest candidate.

Adds nothing: y = 0, (batch, token, channel) in and out. Costs nothing.

Source: He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021.
"""

from castling.operators.spec import OPERATORS, Imported, LayerShape, OperatorSpec


def _nothing(_: LayerShape) -> int:
    return 0


OPERATORS.add(
    "skip",
    OperatorSpec(
        summary="no token mixing: the residual connection alone",
        source="He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021",
        family="none",
        build=Imported("castling.operators.modules.skip:Skip"),
        uses=frozenset(),
        macs=_nothing,
        params=_nothing,
        training_macs=_nothing,
        mixes_tokens=False,
    ),
)
