"""What a budget leaves of a space: the cheapest point, and points brought back within bounds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any, Literal, TypeAlias

from castling.config import RunConfig
from castling.errors import ConfigError, InfeasibleBudgetError
from space.budget import Budget
from space.cost import Cost, cost
from space.decode import decode
from space.domain import Value
from space.point import BLOCKS, DEPTH, Point, Space


Quantity: TypeAlias = Literal["macs", "params"]

FREE_TARGETS = ("train.", "data.", f"{BLOCKS}mask.", f"{BLOCKS}drop_path")
"""Where a dimension's target begins when it changes no cost."""


def point_cost(space: Space, point: Point) -> Cost:
    """Return the closed-form cost of a point's model."""
    return cost(decode(space, point).model)


def cheapest(space: Space, quantity: Quantity) -> dict[str, Value]:
    """Return the point of least `macs` or `params`."""
    return _descend(space, lambda spent: _count(spent, quantity))


def dearest(space: Space, quantity: Quantity) -> dict[str, Value]:
    """Return the point of most `macs` or `params`."""
    return _descend(space, lambda spent: -_count(spent, quantity))


def _count(spent: Cost, quantity: Quantity) -> int:
    return spent.macs if quantity == "macs" else spent.params


def _descend(space: Space, loss: Callable[[Cost], int]) -> dict[str, Value]:
    """Minimise exactly over one group of dimensions at a time until no group improves.

    The groups are a layer, a stage and the shared dimensions. Costs are monotone in numbers, and
    layers add up, so that the descent ends in the minimum; tests compare it with enumeration.
    """
    point = {name: domain.extremes()[0] for name, domain in space.domains.items()}
    best = loss(point_cost(space, point))
    improved = True
    while improved:
        improved = False
        for group in _groups(space):
            for values in product(*(space.domains[name].extremes() for name in group)):
                candidate = point | dict(zip(group, values, strict=True))
                spent = loss(point_cost(space, candidate))
                if spent < best:
                    point, best, improved = candidate, spent, True
    return point


def _groups(space: Space) -> Iterator[Sequence[str]]:
    """Yield the names that decide costs, grouped by the layers that they belong to."""
    groups: dict[str, list[str]] = {}
    free = {name for dim in space.dimensions for name in _names(space, dim.target)}
    for name in space.domains:
        if name in free:
            continue
        place = name.rsplit(".", 1)[0] if name.startswith("model.blocks.") else "model"
        groups.setdefault(place, []).append(name)
    yield from groups.values()


def _names(space: Space, target: str) -> Iterator[str]:
    if not target.startswith(FREE_TARGETS):
        return
    for name in space.domains:
        tail = target.removeprefix(BLOCKS)
        if name == target or (target.startswith(BLOCKS) and name.endswith(f".{tail}")):
            yield name


def check_feasible(space: Space, budget: Budget) -> dict[str, Value]:
    """Return a point within the budget.

    Raises:
        InfeasibleBudgetError: when there is none, with the cost of the cheapest point.
    """
    limits: dict[Quantity, int | None] = {"macs": budget.max_macs, "params": budget.max_params}
    points = {quantity: cheapest(space, quantity) for quantity in limits}
    for quantity, limit in limits.items():
        least = _count(point_cost(space, points[quantity]), quantity)
        if limit is not None and least > limit:
            raise InfeasibleBudgetError(quantity, limit, least)
    for point in points.values():
        spent = point_cost(space, point)
        if budget.admits(spent.macs, spent.params):
            return point
    params = point_cost(space, points["macs"]).params
    raise ConfigError(
        "budget",
        f"must admit both the MACs and the parameters of a point; the point of fewest MACs has "
        f"{params:,} parameters",
        budget.max_params,
    )


def repaired(
    space: Space, point: Point, budget: Budget, anchor: Point, rng: Random
) -> tuple[dict[str, Value], RunConfig]:
    """Return a point within the budget, near the given one, and its config.

    Dimensions take the value of `anchor`, a point within the budget, one after another in random
    order until the cost fits.
    """
    mended = dict(point)
    names = list(space.domains)
    rng.shuffle(names)
    for name in names:
        run = decode(space, mended)
        spent = cost(run.model)
        if budget.admits(spent.macs, spent.params):
            return mended, run
        mended[name] = anchor[name]
    return mended, decode(space, mended)


def default_point(space: Space) -> dict[str, Value]:
    """Return the point that comes closest to the space's base config.

    Every dimension takes the base's value where its domain has it, else its first.
    """
    data = space.base.to_data()
    blocks = data["model"]["blocks"]
    point = {name: domain.extremes()[0] for name, domain in space.domains.items()}
    depth = len(blocks)
    for dimension in space.dimensions:
        if not dimension.is_per_block:
            found = {
                dimension.target: depth
                if dimension.target == DEPTH
                else _get(data, dimension.target)
            }
        else:
            found = {
                space.name_at(dimension, layer, depth): _get(block, dimension.block_field)
                for layer, block in enumerate(blocks)
            }
        point |= {
            name: value
            for name, value in found.items()
            if name in space.domains and value in space.domains[name]
        }
    return point


def _get(data: Mapping[str, Any], path: str) -> Any:
    value: Any = data
    for step in path.split("."):
        value = value[step]
    return value
