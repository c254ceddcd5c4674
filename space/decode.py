"""From a point to the RunConfig it stands for, and back to the dimensions that matter in it."""

from typing import Any

from castling.config import OPERATOR_FIELDS, RunConfig
from castling.model.check import checked
from castling.operators import OPERATORS
from space.domain import Value
from space.point import BLOCKS, DEPTH, Point, Space


def decode(space: Space, point: Point) -> RunConfig:
    """Return the config of a point: the base with every dimension's value put at its target.

    All changes are collected and the config is built once, so no order of changes matters.

    Raises:
        InvalidPointError: when the point is not one of this space.
        ConfigError: when the values do not fit together.
    """
    space.check(point)
    data = space.base.to_data()
    depth = space.depth(point)
    blocks = data["model"]["blocks"]
    data["model"]["blocks"] = [
        _copy(blocks[min(layer, len(blocks) - 1)]) for layer in range(depth)
    ]
    for dimension in sorted(space.dimensions, key=lambda dim: dim.block_field != "operator"):
        if dimension.is_per_block:
            for layer, block in enumerate(data["model"]["blocks"]):
                if _is_settable(dimension.block_field, block["operator"]):
                    value = point[space.name_at(dimension, layer, depth)]
                    _put(block, dimension.block_field, value)
        elif dimension.target != DEPTH:
            _put(data, dimension.target, point[dimension.target])
    return checked(RunConfig(**data))


def active(space: Space, point: Point) -> dict[str, Value]:
    """Return the part of a point that its config depends on.

    Left out are blocks beyond the depth and fields that the chosen operators ignore.
    """
    space.check(point)
    depth, operators = space.depth(point), operators_of(space, point)
    names: dict[str, None] = {}
    for dimension in space.dimensions:
        if not dimension.is_per_block:
            names[dimension.target] = None
            continue
        for layer, operator in enumerate(operators):
            if is_used(dimension.block_field, operator):
                names[space.name_at(dimension, layer, depth)] = None
    return {name: point[name] for name in names}


def operators_of(space: Space, point: Point) -> list[str]:
    """Return the operator of every block of a point, without building its config."""
    depth = space.depth(point)
    for dimension in space.dimensions:
        if dimension.target == f"{BLOCKS}operator":
            return [str(point[space.name_at(dimension, layer, depth)]) for layer in range(depth)]
    blocks = space.base.model.blocks
    return [blocks[min(layer, len(blocks) - 1)].operator for layer in range(depth)]


def _is_settable(field: str, operator: str) -> bool:
    """Return whether a block with this operator has the field: options are its own."""
    return not field.startswith("options.") or is_used(field, operator)


def is_used(field: str, operator: str) -> bool:
    """Return whether a field of a block matters to a block with this operator."""
    if operator not in OPERATORS:
        return True  # building the config says what is wrong
    section, _, name = field.partition(".")
    spec = OPERATORS[operator]
    if section == "options":
        return name in spec.options.model_fields
    return section not in OPERATOR_FIELDS or section in spec.uses


def _put(data: dict[str, Any], path: str, value: Value) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        data = data[parent]
    data[last] = value


def _copy(block: dict[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in block.items()}
