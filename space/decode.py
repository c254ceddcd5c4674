"""Decodes a point to its RunConfig, and finds the dimensions that are active in it."""

from castling.config import RunConfig
from castling.model.check import checked
from space.domain import Value
from space.point import Point, Space
from space.target import DEPTH, OPERATOR


def decode(space: Space, point: Point) -> RunConfig:
    """Return the config of a point: the base config with every value set at its target.

    All changes are collected and the config is built once, so no order of changes matters. The
    options of the base's operator stay with that operator: a block that gets another begins
    without any.

    Raises:
        InvalidPointError: when the point is not one of this space.
        ConfigError: when the values do not fit together.
    """
    space.check(point)
    data = space.base.to_data()
    depth = space.depth(point)
    DEPTH.set(data, depth)
    blocks = data["model"]["blocks"]
    for block, operator in zip(blocks, operators_of(space, point), strict=True):
        if block["operator"] != operator:
            block.update(operator=operator, options={})
    for dimension in space.dimensions:
        target = dimension.target
        if target.is_per_block and not target.is_operator:
            for layer, block in enumerate(blocks):
                if target.option is None or target.is_used_by(block["operator"]):
                    target.set_in_block(block, point[space.name_at(dimension, layer, depth)])
        elif not (target.is_depth or target.is_operator):
            target.set(data, point[target.path])
    return checked(RunConfig(**data))


def active(space: Space, point: Point) -> dict[str, Value]:
    """Return the part of a point that its config depends on.

    It has no dimensions of blocks beyond the depth, or of fields that the operators ignore.
    """
    space.check(point)
    depth, operators = space.depth(point), operators_of(space, point)
    names: dict[str, None] = {}
    for dimension in space.dimensions:
        if not dimension.target.is_per_block:
            names[dimension.target.path] = None
            continue
        for layer, operator in enumerate(operators):
            if dimension.target.is_used_by(operator):
                names[space.name_at(dimension, layer, depth)] = None
    return {name: point[name] for name in names}


def operators_of(space: Space, point: Point) -> list[str]:
    """Return the operator of every block of a point, without building its config."""
    depth = space.depth(point)
    for dimension in space.dimensions:
        if dimension.target.is_operator:
            names = [space.name_at(dimension, layer, depth) for layer in range(depth)]
            return [str(point[name]) for name in names]
    return [OPERATOR.get(space.base, layer) for layer in range(depth)]
