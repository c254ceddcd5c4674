"""The parts of a CastlingViT besides operators and MLPs, and the closed form of every part."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from castling.blocks.mlp import MLPS
from castling.config import ModelConfig
from castling.costs.cost import Cost
from castling.operators import OPERATORS
from castling.operators.spec import Formula, LayerShape, layer_shapes


if TYPE_CHECKING:
    from torch import nn


def free(_: LayerShape) -> int:
    """Return 0: the formula of parts that have no parameters, or no multiply-adds."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPart:
    """What the output of an operator, and of an MLP, passes through before it is added to x."""

    build: Callable[[LayerShape], "nn.Module"]
    """Makes a module (batch, token, channel) -> (batch, token, channel); imports torch itself."""
    macs: Formula = free
    """Multiply-accumulates per image of one such module."""
    params: Formula = free
    """Parameters of one such module."""


def _drop_path(shape: LayerShape) -> "nn.Module":
    from timm.layers import DropPath
    from torch import nn

    rate = shape.block.drop_path
    return DropPath(rate) if rate > 0.0 else nn.Identity()


BRANCH_PARTS: Mapping[str, BranchPart] = {
    "drop_path": BranchPart(build=_drop_path),
}
"""By name, in the order in which the outputs of operator and MLP pass through them."""
NUM_BRANCHES = 2
"""Residual branches of a block: one around the operator, one around the MLP."""


def block_cost(shape: LayerShape) -> Cost:
    """Return the cost of one block: of each branch its norm, its mixer and what follows."""
    operator = OPERATORS[shape.block.operator].cost(shape)
    mlp = MLPS[shape.block.mlp].cost(shape)
    macs = NUM_BRANCHES * sum(part.macs(shape) for part in BRANCH_PARTS.values())
    params = NUM_BRANCHES * sum(part.params(shape) for part in BRANCH_PARTS.values())
    norms = NUM_BRANCHES * 2 * shape.embed_width
    return operator + mlp + Cost(macs=macs, params=params + norms, training_macs=macs)


def embedding_cost(model: ModelConfig) -> Cost:
    """Return the cost of the patch embedding, the class token and the positions."""
    width, grid = model.embed_width, layer_shapes(model)[0].grid
    inputs = model.channels * model.patch_size**2
    macs = grid.height * grid.width * width * inputs
    positions = grid.num_tokens * width
    class_tokens = grid.num_prefix * width
    params = width * inputs + width + positions + class_tokens
    return Cost(macs=macs, params=params, training_macs=macs)


def head_cost(model: ModelConfig) -> Cost:
    """Return the cost of the last norm and the classifier."""
    macs = model.embed_width * model.num_classes
    params = macs + model.num_classes + 2 * model.embed_width
    return Cost(macs=macs, params=params, training_macs=macs)


def vit_cost(model: ModelConfig) -> Cost:
    """Return the cost of a CastlingViT, the sum over its parts."""
    total = embedding_cost(model) + head_cost(model)
    for shape in layer_shapes(model):
        total = total + block_cost(shape)
    return total
