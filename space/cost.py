"""Closed-form cost: MACs and parameters of a model as a sum over its parts, in microseconds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from castling.config import (
    Architecture,
    BackboneConfig,
    BlockConfig,
    LayerChoice,
    ModelConfig,
    StockBackbone,
)
from castling.errors import ConfigError
from castling.model.adapters.sites import sites_of
from castling.model.check import check_layer
from castling.model.mlp import MLPS
from castling.operators import OPERATORS, TokenGrid
from castling.operators.spec import LayerShape, layer_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Multiply-accumulates per image and parameters, plain counts.

    Linear layers, convolutions and attention products count, one MAC per multiply-add; norms and
    elementwise operations do not.
    """

    macs: int
    """Of the castled model."""
    params: int
    """Of the castled model; the auxiliary branch has none."""
    training_macs: int
    """Of the forward pass at the start of training, while the auxiliary branches are alive."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            macs=self.macs + other.macs,
            params=self.params + other.params,
            training_macs=self.training_macs + other.training_macs,
        )


def cost(model: Architecture) -> Cost:
    """Return the cost of a model, exactly what fvcore counts on it."""
    return _backbone_cost(model) if isinstance(model, BackboneConfig) else _vit_cost(model)


def _backbone_cost(model: BackboneConfig) -> Cost:
    """Return the layers' closed forms and, counted once per backbone, all that never changes."""
    sites = sites_of(model)
    fixed = sites.fixed_macs
    total = Cost(macs=fixed, params=sites.fixed_params, training_macs=fixed)
    for layer, choice in zip(sites.layers, model.blocks, strict=True):
        total = total + Cost(
            macs=layer.macs(choice),
            params=layer.params(choice),
            training_macs=layer.training_macs(choice),
        )
    return total


def _vit_cost(model: ModelConfig) -> Cost:
    shapes = layer_shapes(model)
    total = _embedding(model, shapes[0].grid) + _head(model)
    for shape in shapes:
        total = total + block_cost(shape)
    return total


def block_cost(shape: LayerShape) -> Cost:
    """Return the cost of one block: operator, MLP and two norms."""
    mlp, norms = MLPS[shape.block.mlp], 2 * 2 * shape.embed_width
    return operator_cost(shape) + Cost(
        macs=mlp.macs(shape),
        params=mlp.params(shape) + norms,
        training_macs=mlp.macs(shape),
    )


def operator_cost(shape: LayerShape) -> Cost:
    """Return the cost of one layer's operator, projections included."""
    spec = OPERATORS[shape.block.operator]
    return Cost(
        macs=spec.macs(shape), params=spec.params(shape), training_macs=spec.training_macs(shape)
    )


def _embedding(model: ModelConfig, grid: TokenGrid) -> Cost:
    width = model.embed_width
    inputs = model.channels * model.patch_size**2
    macs = grid.height * grid.width * width * inputs
    positions = grid.num_tokens * width
    class_tokens = grid.num_prefix * width
    params = width * inputs + width + positions + class_tokens
    return Cost(macs=macs, params=params, training_macs=macs)


def _head(model: ModelConfig) -> Cost:
    macs = model.embed_width * model.num_classes
    params = macs + model.num_classes + 2 * model.embed_width
    return Cost(macs=macs, params=params, training_macs=macs)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosts:
    """An attention layer of a backbone, and what each operator costs in its place."""

    path: str
    """Of the module in timm's model."""
    queries: int
    keys: int
    macs: Mapping[str, int]
    """Multiply-accumulates per image by operator, of those that the layer can take."""


def layer_costs(model: StockBackbone, operators: Iterable[str]) -> list[LayerCosts]:
    """Return a backbone's attention layers, first to last, as a choice per layer counts them."""
    choices = [LayerChoice(operator=name) for name in operators]
    for choice in choices:
        check_layer(choice)
    return [
        LayerCosts(
            path=layer.name,
            queries=layer.tokens[0],
            keys=layer.tokens[1],
            macs={
                choice.operator: layer.macs(choice)
                for choice in choices
                if not layer.incompatibility(choice)
            },
        )
        for layer in sites_of(model).layers
    ]


def operator_costs(num_tokens: int, width: int, num_heads: int) -> list[tuple[str, Cost, str]]:
    """Return name, cost of one layer and summary of every operator.

    Args:
        num_tokens: a square number; the grid is square, without a class token.
        width: embed and attention width.
        num_heads: heads; must divide the width.

    Raises:
        ConfigError: when the numbers do not fit together.
    """
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ConfigError("tokens", "must be a square number", num_tokens)
    if width % num_heads:
        raise ConfigError("heads", f"must divide the width {width}", num_heads)
    grid = TokenGrid(height=side, width=side)
    costs = []
    for name, spec in OPERATORS.items():
        block = BlockConfig(operator=name, num_heads=num_heads, head_size=width // num_heads)
        shape = LayerShape(block=block, embed_width=width, grid=grid)
        costs.append((name, operator_cost(shape), spec.summary))
    return costs
