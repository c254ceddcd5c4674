"""Closed-form cost: MACs and parameters of a model as a sum over its parts, in microseconds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from castling.config import Architecture, LayerChoice, StockBackbone
from castling.costs.cost import Cost
from castling.model.adapters.sites import sites_of
from castling.model.architecture import architecture_of
from castling.model.check import check_layer


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
