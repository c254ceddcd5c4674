"""Closed-form cost: MACs and parameters of a model as a sum over its parts, in microseconds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from castling.config import Architecture, BlockConfig, LayerChoice, StockBackbone
from castling.costs.cost import Cost
from castling.errors import ConfigError
from castling.model.adapters.sites import sites_of
from castling.model.architecture import architecture_of
from castling.model.check import check_layer
from castling.model.parts import operator_cost
from castling.operators import OPERATORS, TokenGrid
from castling.operators.spec import LayerShape


def cost(model: Architecture) -> Cost:
    """Return the cost of a model, exactly what fvcore counts on it."""
    return architecture_of(model).cost()


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
