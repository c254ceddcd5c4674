"""What an operator declares: how to build it, which fields it reads, what it costs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from castling.config import BlockConfig
from castling.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrid:
    """The tokens of a layer: `num_prefix` class tokens, then a height x width grid by rows."""

    height: int
    width: int
    num_prefix: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequence, class tokens included."""
        return self.height * self.width + self.num_prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One layer as an operator sees it: its block config, the embed width and the tokens."""

    block: BlockConfig
    embed_width: int
    grid: TokenGrid
    qkv_bias: bool = True


Formula = Callable[[LayerShape], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """An operator's entry in the registry; costs are of the whole layer, projections included."""

    summary: str
    """One line for the table of operators."""
    source: str
    """Paper or report of the formula."""
    build: Callable[[LayerShape], nn.Module]
    """Makes the module (batch, token, channel) -> (batch, token, channel)."""
    uses: frozenset[str]
    """The fields of BlockConfig that change this operator; the others are ignored."""
    macs: Formula
    """Multiply-accumulates per image of the castled layer."""
    params: Formula
    """Parameters of the layer."""
    training_macs: Formula
    """Multiply-accumulates per image of the forward pass while the branch is alive."""
    searchable: bool = True
    """Whether spaces may offer it as a choice."""


OPERATORS: Registry[OperatorSpec] = Registry("operator")


def projection_macs(shape: LayerShape) -> int:
    """Return the MACs of the q, k, v and output projections, 4 N C A with attention width A."""
    return 4 * shape.grid.num_tokens * shape.embed_width * shape.block.attention_width


def projection_params(shape: LayerShape) -> int:
    """Return the parameters of the q, k, v and output projections."""
    width = shape.block.attention_width
    weights = 4 * shape.embed_width * width
    return weights + (3 * width if shape.qkv_bias else 0) + shape.embed_width


def quadratic_macs(shape: LayerShape) -> int:
    """Return the MACs of q k^T and its product with v, 2 N^2 A."""
    return 2 * shape.grid.num_tokens**2 * shape.block.attention_width
