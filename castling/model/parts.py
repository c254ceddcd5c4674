"""The closed form of every part of a CastlingViT."""

from castling.config import ModelConfig
from castling.costs.cost import Cost
from castling.model.mlp import MLPS
from castling.operators import OPERATORS
from castling.operators.spec import LayerShape, layer_shapes


def operator_cost(shape: LayerShape) -> Cost:
    """Return the cost of one layer's operator, projections included."""
    spec = OPERATORS[shape.block.operator]
    return Cost(
        macs=spec.macs(shape), params=spec.params(shape), training_macs=spec.training_macs(shape)
    )


def block_cost(shape: LayerShape) -> Cost:
    """Return the cost of one block: operator, MLP and two norms."""
    mlp, norms = MLPS[shape.block.mlp], 2 * 2 * shape.embed_width
    return operator_cost(shape) + Cost(
        macs=mlp.macs(shape),
        params=mlp.params(shape) + norms,
        training_macs=mlp.macs(shape),
    )


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
