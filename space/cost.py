"""Closed-form cost: MACs and parameters of a model as a sum over its parts, in microseconds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from castling.config import (
    Architecture,
    BackboneConfig,
    BlockConfig,
    LayerChoice,
    StockBackbone,
)
from castling.costs.cost import Cost
from castling.errors import ConfigError
from castling.model.hosts.anatomy import anatomy_of
from castling.model.parts import vit_cost
from castling.operators import OPERATORS, TokenGrid
from castling.operators.spec import LayerShape


def cost(model: Architecture) -> Cost:
    """Return the cost of a model, exactly what fvcore counts on it."""
    return _backbone_cost(model) if isinstance(model, BackboneConfig) else vit_cost(model)


def _backbone_cost(model: BackboneConfig) -> Cost:
    """Return the layers' closed forms and, counted once per backbone, all that never changes."""
    anatomy = anatomy_of(model)
    fixed = anatomy.fixed_macs
    total = Cost(macs=fixed, params=anatomy.fixed_params, training_macs=fixed)
    for layer, choice in zip(anatomy.layers, model.blocks, strict=True):
        total = total + Cost(
            macs=layer.macs(choice),
            params=layer.params(choice),
            training_macs=layer.training_macs(choice),
        )
    return total


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
    return [
        LayerCosts(
            path=layer.name,
            queries=layer.tokens[0],
            keys=layer.tokens[1],
            macs={
                choice.operator: layer.macs(choice)
                for choice in choices
                if not layer.objection(choice)
            },
        )
        for layer in anatomy_of(model).layers
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
        costs.append((name, spec.cost(shape), spec.summary))
    return costs
