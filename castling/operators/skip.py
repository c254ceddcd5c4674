"""No token mixing at all: the block's residual connection alone, SPViT's cheapest candidate."""

from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.spec import OPERATORS, LayerShape, OperatorSpec


class Skip(nn.Module):
    """Adds nothing: y = 0, (batch, token, channel) in and out. Costs nothing.

    Source: He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021.
    """

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Return zeros."""
        return x.new_zeros(()).expand_as(x)


def _build(_: LayerShape) -> nn.Module:
    return Skip()


def _nothing(_: LayerShape) -> int:
    return 0


OPERATORS.add(
    "skip",
    OperatorSpec(
        summary="no token mixing: the residual connection alone",
        source="He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021",
        build=_build,
        uses=frozenset(),
        macs=_nothing,
        params=_nothing,
        training_macs=_nothing,
    ),
)
