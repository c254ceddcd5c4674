"""Points of minimal and maximal cost in a space, and points within a budget."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product
from math import prod
from operator import itemgetter
from random import Random
from typing import Any, Literal, TypeAlias

from castling.config import RunConfig
from castling.config.limits import MOST_COMBINATIONS
from castling.costs.cost import Cost
from castling.errors import ConfigError, InfeasibleBudgetError
from castling.model.check import resolve
from space.budget import Budget
from space.cost import cost
from space.cost_model import CostModel
from space.decode import decode
from space.domain import Value
from space.point import Dimension, Point, Space, Tie


Quantity: TypeAlias = Literal["macs", "params", "training_macs"]
Price: TypeAlias = tuple[int, ...]
"""One or two counts to keep small."""
Option: TypeAlias = tuple[Price, dict[str, Value]]
"""The cost of a model, and the values that lead to it."""

COUNTED: tuple[Quantity, ...] = ("macs", "params", "training_macs")
"""The metrics whose maximum in a space is computed exactly."""


def point_cost(space: Space, point: Point) -> Cost:
    """Return the closed-form cost of a point's model."""
    return cost(decode(space, point).model)


def min_cost_point(space: Space, quantity: Quantity) -> dict[str, Value]:
    """Return the point of fewest `macs` or `params`."""
    [(_, point)] = _Enumeration(space, lambda spent: (_count(spent, quantity),), min).optima()
    return point


def max_cost_point(space: Space, quantity: Quantity) -> dict[str, Value]:
    """Return the point of most `macs`, `params` or `training_macs`."""
    [(_, point)] = _Enumeration(space, lambda spent: (-_count(spent, quantity),), max).optima()
    return point


def _count(spent: Cost, quantity: Quantity) -> int:
    count: int = getattr(spent, quantity)
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Names whose values are chosen together, and the groups that then choose independently."""

    names: tuple[str, ...]
    parts: tuple["_Group", ...] = ()


@dataclass(frozen=True)
class _Enumeration:
    """Finds the points of minimal cost without visiting all points.

    With two counts these are the non-dominated points. Exact: given the shared values, the cost is
    a sum over layers and monotone in every numeric field, so only one end of each range must be
    tried.
    """

    space: Space
    price: Callable[[Cost], Price]
    end: Callable[[Sequence[Any]], Any]
    """min or max: at which end of a block's range the price is lower."""

    def optima(self) -> list[Option]:
        """Return prices and points, in the order of the first count."""
        dimensions = self._costly()
        shared = [dim for dim in dimensions if dim.tie == "all" or not dim.target.is_per_block]
        start = {name: values[0] for name, values in self._values.items()}
        best: list[Option] = []
        for chosen in self._choices([name for dim in shared for name in self.space.names(dim)]):
            point = start | chosen
            root = _Group(names=(), parts=self._stages(self.space.depth(point)))
            best += [(price, point | values) for price, values in self._explore(root, point)]
        return _front(best)

    def _costly(self) -> list[Dimension]:
        return [dim for dim in self.space.dimensions if dim.target.affects_cost]

    def _stages(self, depth: int) -> tuple[_Group, ...]:
        """Return the layers in runs that share the values of their stage."""

        def names(tie: Tie, layer: int) -> tuple[str, ...]:
            return tuple(
                self.space.name_at(dim, layer, depth)
                for dim in self._costly()
                if dim.target.is_per_block and dim.tie == tie
            )

        runs = groupby(range(depth), key=lambda layer: names("stage", layer))
        return tuple(
            _Group(
                names=stage, parts=tuple(_Group(names=names("each", layer)) for layer in layers)
            )
            for stage, layers in runs
        )

    def _explore(self, group: _Group, point: Point) -> list[Option]:
        """Return the best values of a group and its parts; all others are those of the point."""
        best: list[Option] = []
        for chosen in self._choices(group.names):
            here = {**point, **chosen}
            base = self.price(point_cost(self.space, here))
            options: list[Option] = [(base, chosen)]
            for part in group.parts:
                pairs = product(options, self._explore(part, here))
                options = _front(
                    (_sum(price, other, base), values | more)
                    for (price, values), (other, more) in pairs
                )
            best += options
        return _front(best)

    def _choices(self, names: Sequence[str]) -> Iterator[dict[str, Value]]:
        domains = [self._values[name] for name in names]
        if prod(map(len, domains)) > MOST_COMBINATIONS:
            rule = f"must have at most {MOST_COMBINATIONS:,} combinations of what layers share"
            raise ConfigError("dimensions", rule, fix="choose among fewer values")
        for values in product(*domains):
            yield dict(zip(names, values, strict=True))

    @cached_property
    def _values(self) -> Mapping[str, Sequence[Value]]:
        """The values to try for every name: one end of the range for numbers of a block."""
        by_name: dict[str, Sequence[Value]] = {}
        for dimension in self.space.dimensions:
            values, domain = dimension.domain.extremes(), dimension.domain
            if dimension.target.is_per_block and domain.is_ordered:
                values = [self.end(values)]
            by_name |= dict.fromkeys(self.space.names(dimension), values)
        return by_name


def _sum(price: Price, other: Price, base: Price) -> Price:
    """Return the price with another's difference from the base added."""
    return tuple(a + b - c for a, b, c in zip(price, other, base, strict=True))


def _front(options: Iterable[Option]) -> list[Option]:
    """Return the non-dominated options, in the order of their costs."""
    front: list[Option] = []
    for price, values in sorted(options, key=itemgetter(0)):
        if not front or price[-1] < front[-1][0][-1]:
            front.append((price, values))
    return front


def check_feasible(space: Space, budget: Budget) -> dict[str, Value]:
    """Return the point of fewest MACs among those within the bounds on MACs and parameters.

    Raises:
        InfeasibleBudgetError: when a bound is below the least cost of any point.
        ConfigError: when each bound admits points, but no point is within both.
    """
    counts = Budget(max_macs=budget.max_macs, max_params=budget.max_params)
    optima = _Enumeration(space, lambda spent: (spent.macs, spent.params), min).optima()
    limits: dict[Quantity, int | None] = {"macs": budget.max_macs, "params": budget.max_params}
    for index, (quantity, limit) in enumerate(limits.items()):
        least = min(price[index] for price, _ in optima)
        if limit is not None and least > limit:
            raise InfeasibleBudgetError(quantity, limit, least)
    for (macs, params), point in optima:
        if counts.admits({"macs": macs, "params": params}):
            return point
    fewest = min(macs for (macs, params), _ in optima if params <= (budget.max_params or params))
    raise ConfigError(
        "budget",
        f"must admit a point in both bounds, but within max_params={budget.max_params:,} the "
        f"fewest MACs are {fewest:,}",
        budget.max_macs,
    )


def feasible_point(space: Space, budget: Budget, pricing: CostModel) -> dict[str, Value]:
    """Return a point within the bounds on costs: that of fewest MACs, if it is within all.

    Latency and the costs of plugins have no closed form. Coordinate descent looks for a point
    within their bounds: each dimension in turn takes the value that minimises the largest overrun.

    Raises:
        InfeasibleBudgetError: when a bound on a count is below the least cost of any point.
        ConfigError: when the descent ends outside of a bound.
    """
    point = check_feasible(space, budget)
    others = [
        bound for bound in budget.bounds("cost") if bound.metric.name not in ("macs", "params")
    ]
    if not others:
        return point
    counts = Budget(max_macs=budget.max_macs, max_params=budget.max_params)
    spent = pricing(decode(space, point).model)
    for name, domain in space.domains.items():
        for value in domain.extremes():
            if spent.within(budget):
                return point
            changed = {**point, name: value}
            with suppress(ConfigError):
                other = pricing(decode(space, changed).model)
                if other.within(counts) and other.violation(budget) < spent.violation(budget):
                    point, spent = changed, other
    if spent.within(budget):
        return point
    worst = max(others, key=lambda bound: bound.excess(spent[bound.metric.name]))
    best, side = spent[worst.metric.name], "least" if worst.side == "max" else "most"
    rule = f"must be at {side} about {worst.metric.text(best)}, the best found in this space"
    raise ConfigError(f"budget.{worst.field}", rule, worst.value)


def projected(
    space: Space,
    point: Point,
    fits: Callable[[RunConfig], bool],
    feasible: Point,
    rng: Random,
) -> tuple[dict[str, Value], RunConfig]:
    """Return a point within the budget near another one, and its config.

    Dimensions take the value of `feasible`, a point within the budget, one after another in random
    order until the whole point fits; those that change no cost come last, so that they nearly
    always stay.
    """
    near = dict(point)
    names = list(space.domains)
    rng.shuffle(names)
    free = _free_names(space)
    names.sort(key=free.__contains__)
    for name in names:
        with suppress(ConfigError):  # values may contradict one another
            run = decode(space, near)
            if fits(run):
                return near, run
        near[name] = feasible[name]
    return near, decode(space, near)


def _free_names(space: Space) -> set[str]:
    """Return the names of a point that change no cost."""
    free = [dimension for dimension in space.dimensions if not dimension.target.affects_cost]
    return {name for dimension in free for name in space.names(dimension)}


def default_point(space: Space) -> dict[str, Value]:
    """Return the point that comes closest to the space's base config.

    Every dimension takes the base's value where its domain has it, else its first.
    """
    point = {name: domain.extremes()[0] for name, domain in space.domains.items()}
    for values in (_base_values, _base_block_values):
        base_values = values(space, space.depth(point))
        point |= {name: value for name, value in base_values if value in space.domains[name]}
    return point


def _base_values(space: Space, _: int) -> Iterator[tuple[str, Value]]:
    """Yield the base's values of the dimensions outside the blocks."""
    data = space.base.to_data()
    for dimension in space.dimensions:
        if not dimension.target.is_per_block:
            yield dimension.target.path, dimension.target.get(data)


def _base_block_values(space: Space, depth: int) -> Iterator[tuple[str, Value]]:
    """Yield the base's values in every block a point may have, named as at the given depth."""
    blocks = [block.to_data() for block in resolve(space.base.model).blocks]
    data = {"model": {"blocks": blocks}}
    for dimension in space.dimensions:
        for layer in range(space.max_depth if dimension.target.is_per_block else 0):
            yield space.name_at(dimension, layer, depth), dimension.target.get(data, layer)
