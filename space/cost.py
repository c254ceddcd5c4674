"""Closed-form cost: MACs and parameters of a model as a sum over its parts, in microseconds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from castling.blocks.parts import vit_cost
from castling.config import (
    Architecture,
    BackboneConfig,
    LayerChoice,
    StockBackbone,
)
from castling.costs.cost import Cost
from castling.model.hosts.anatomy import anatomy_of


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
