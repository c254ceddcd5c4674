"""The channel mixers of a block: the plain MLP, LightViT's gated one, and SPViT's that shrinks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from castling.costs.cost import Cost
from castling.operators.spec import Formula, Imported, LayerShape


if TYPE_CHECKING:
    from torch import nn


def hidden_width(shape: LayerShape) -> int:
    """Return the hidden channels of a block's MLP."""
    return max(1, int(shape.embed_width * shape.block.mlp_ratio))


def gate_width(shape: LayerShape) -> int:
    """Return the channels of the bi-dimensional gates: a quarter of the embed width."""
    return max(1, shape.embed_width // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """A channel mixer: how to build it and what it costs."""

    build: Callable[[LayerShape], "nn.Module"]
    macs: Formula
    params: Formula

    def cost(self, shape: LayerShape) -> Cost:
        """Return the cost of the MLP of one block."""
        macs = self.macs(shape)
        return Cost(macs=macs, params=self.params(shape), training_macs=macs)


def plain_macs(shape: LayerShape) -> int:
    """Return the MACs of two linear layers, 2 N C H with H hidden channels."""
    return 2 * shape.grid.num_tokens * shape.embed_width * hidden_width(shape)


def _plain_params(shape: LayerShape) -> int:
    width, hidden = shape.embed_width, hidden_width(shape)
    return 2 * width * hidden + hidden + width


def _shrinking_params(shape: LayerShape) -> int:
    return _plain_params(shape) + hidden_width(shape)


def _gated_macs(shape: LayerShape) -> int:
    tokens, width, gates = shape.grid.num_tokens, shape.embed_width, gate_width(shape)
    return plain_macs(shape) + 2 * width * gates + tokens * width * gates + 2 * tokens * gates


def _gated_params(shape: LayerShape) -> int:
    width, gates = shape.embed_width, gate_width(shape)
    gated = 2 * (width + 1) * gates + (gates + 1) * width + 2 * gates + 1
    return _plain_params(shape) + 2 * width + gated


MLPS: Mapping[str, MlpSpec] = {
    "plain": MlpSpec(
        build=Imported("castling.blocks.modules.mlp:plain"),
        macs=plain_macs,
        params=_plain_params,
    ),
    "bidimensional": MlpSpec(
        build=Imported("castling.blocks.modules.mlp:BidimensionalMlp"),
        macs=_gated_macs,
        params=_gated_params,
    ),
    "shrinking": MlpSpec(
        build=Imported("castling.blocks.modules.mlp:ShrinkingMlp"),
        macs=plain_macs,
        params=_shrinking_params,
    ),
}
"""By the names that `BlockConfig.mlp` takes."""
