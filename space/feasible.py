"""What a budget leaves of a space: the cheapest point, and points brought back within bounds."""

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

from castling.config import RunConfig
from castling.errors import ConfigError, InfeasibleBudgetError
from space.budget import Budget
from space.cost import Cost, cost
from space.decode import decode
from space.domain import Value
from space.point import BLOCKS, Point, Space


FREE_TARGETS = ("train.", "data.", f"{BLOCKS}mask.", f"{BLOCKS}drop_path")
"""Where a dimension's target begins when it changes no cost."""


def point_cost(space: Space, point: Point) -> Cost:
    """Return the closed-form cost of a point's model."""
    return cost(decode(space, point).model)


def cheapest(space: Space, quantity: str) -> dict[str, Value]:
    """Return the point of least `macs` or `params`.

    Found by exact minimisation over one group of dimensions at a time (a layer, a stage, the
    shared ones) until none improves. Costs are monotone in numbers, and layers add up, so that
    this descent ends in the minimum; tests compare it with enumeration.
    """
    point = {name: domain.extremes()[0] for name, domain in space.domains.items()}
    best: int = getattr(point_cost(space, point), quantity)
    improved = True
    while improved:
        improved = False
        for group in _groups(space):
            for values in product(*(space.domains[name].extremes() for name in group)):
                candidate = point | dict(zip(group, values, strict=True))
                spent: int = getattr(point_cost(space, candidate), quantity)
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
    limits = {"macs": budget.max_macs, "params": budget.max_params}
    points = {quantity: cheapest(space, quantity) for quantity in limits}
    for quantity, limit in limits.items():
        least: int = getattr(point_cost(space, points[quantity]), quantity)
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
