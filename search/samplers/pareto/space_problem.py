"""A space under a budget as a search problem: draws, mutates and crosses points within it."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from castling.config import RunConfig
from castling.errors import ConfigError
from castling.model.check import digest
from reports.pareto import Points
from search.samplers.pareto.acquisition import Encoded, Goal
from search.samplers.pareto.encoding import Encoding
from space.budget import Bound
from space.decode import active, decode
from space.domain import Domain, Value
from space.feasible import default_point, projected
from space.point import Point


if TYPE_CHECKING:
    from search.context import SearchContext

Values: TypeAlias = tuple[Value, ...]
"""A point's values in the order of the space's domains."""

FEW = 1024
"""A space with no more points than this is enumerated."""
MOST_DRAWS = 8
"""Draws over budget after which one is projected into the budget."""
LEANING = 0.5
"""The fraction of random points that copy some values of the base config."""
REDRAWN, STEP = 0.5, 0.05
"""The probability that a real number of a candidate is drawn anew, and otherwise the standard
deviation of its move, as a fraction of its range."""
REMEMBERED = 8192
"""Points whose features and costs are cached."""


@dataclass(frozen=True, slots=True)
class _Described:
    """The cached data of a point."""

    features: Points
    known: Points
    """(objective), NaN for learnt objectives."""
    key: str
    """The values of the active dimensions."""


class SpaceProblem:
    """A space under a budget: it returns only points within the budget."""

    def __init__(self, context: "SearchContext") -> None:
        space, objectives = context.space, context.objectives
        self._space, self._budget, self._objectives = space, context.budget, objectives
        self._cost_model = context.cost_model
        self._feasible_point = self.values_of(context.feasible_point)
        self._default = self.values_of(default_point(space))
        extra = [goal.metric for goal in objectives if goal.is_cost]
        self._costs = tuple(dict.fromkeys(["macs", "params", *extra]))
        self._encoding = Encoding(space, self._costs)
        self._domains = [*space.domains.values()]
        self._described: OrderedDict[str, _Described] = OrderedDict()
        self._identities: dict[str, str] = {}
        reference = context.reference
        self.goal = Goal(
            groups=self._encoding.groups,
            learnt=np.array([not goal.is_cost for goal in objectives]),
            reference=np.array(
                [goal.sign * reference.get(goal.metric, np.nan) for goal in objectives]
            ),
        )

    @property
    def learnt_bounds(self) -> list[Bound]:
        """The bounds on metrics that training measures; the reference bounds objectives."""
        objectives = {goal.metric for goal in self._objectives}
        bounds = self._budget.bounds("training")
        return [bound for bound in bounds if bound.metric.name not in objectives]

    def values_of(self, point: Point) -> Values:
        """Return a point's values in order."""
        return tuple(point[name] for name in self._space.domains)

    def point_of(self, values: Values) -> dict[str, Value]:
        """Return the point that has these values."""
        return dict(zip(self._space.domains, values, strict=True))

    @cached_property
    def everything(self) -> list[Values] | None:
        """All points within the budget that differ in what they train, or None for too many."""
        if prod(domain.size for domain in self._domains) > FEW:
            return None
        found: dict[Hashable, Values] = {}
        for values in product(*(domain.all_values() or () for domain in self._domains)):
            with suppress(ConfigError):
                run = decode(self._space, self.point_of(values))
                if self._fits(run):
                    found.setdefault(digest(run), values)
        return [*found.values()]

    def encode(self, points: Sequence[Values]) -> Encoded:
        """Return the features and exact costs of points."""
        described = [self._describe(values) for values in points]
        width = sum(map(len, self.goal.groups))
        features = [one.features for one in described]
        known = [one.known for one in described]
        return Encoded(
            features=np.array(features).reshape(len(points), width),
            values=np.array(known).reshape(len(points), len(self._objectives)),
        )

    def key(self, point: Values) -> Hashable:
        """Return the active values of a point; equal trainings nearly always share them."""
        return self._describe(point).key

    def identity(self, point: Values) -> Hashable:
        """Return the digest by which equal trainings are recognised, computed once."""
        name = repr(point)
        if name not in self._identities:
            self._identities[name] = digest(decode(self._space, self.point_of(point)))
        return self._identities[name]

    def sample(self, rng: Random) -> Values:
        """Draw a point; one over budget is drawn again, and finally projected into the budget.

        The base config is a good prior: half of the points copy some of its values.
        """
        share = rng.random() if rng.random() < LEANING else 0.0
        values = self._drawn(share, rng)
        for _ in range(MOST_DRAWS):
            with suppress(ConfigError):
                run = decode(self._space, self.point_of(values))
                if self._fits(run):
                    self._describe(values, run)
                    return values
            values = self._drawn(share, rng)
        return self._projected(values, self._feasible_point, rng)

    def _drawn(self, share: float, rng: Random) -> Values:
        """Draw a point that copies a random fraction of the base config's values."""
        drawn = self.values_of(self._space.sample(rng))
        if not share:
            return drawn
        near = self._nudged(self._default, rng)
        pairs = zip(drawn, near, strict=True)
        return tuple(known if rng.random() < share else value for value, known in pairs)

    def mutate(self, point: Values, rng: Random) -> Values:
        """Return a point with one or a few other values, and with all real values moved."""
        mutable = [place for place, domain in enumerate(self._domains) if domain.size > 1]
        changed = list(self._nudged(point, rng))
        rate = rng.choice((1.0, 2.0, 4.0)) / max(1, len(mutable))
        chosen = [place for place in mutable if rng.random() < rate]
        for place in chosen or rng.sample(mutable, min(1, len(mutable))):
            changed[place] = self._domains[place].neighbour(point[place], rng)
        return self._projected(tuple(changed), point, rng)

    def cross(self, one: Values, other: Values, rng: Random) -> Values:
        """Return a point with each value from one of two parents, and with real values moved."""
        mixed = tuple(rng.choice(pair) for pair in zip(one, other, strict=True))
        return self._projected(self._nudged(mixed, rng), one, rng)

    def _nudged(self, values: Values, rng: Random) -> Values:
        """Return the values, the real ones moved a little or drawn anew.

        If it were copied, or only moved, a learning rate that the early front shares would be
        tried again and again; the surrogate should choose from the whole range.
        """
        return tuple(
            _nudged(domain, value, rng) if domain.all_values() is None else value
            for domain, value in zip(self._domains, values, strict=True)
        )

    def _fits(self, run: RunConfig) -> bool:
        return self._cost_model(run.model).within(self._budget)

    def _projected(self, values: Values, feasible: Values, rng: Random) -> Values:
        near, run = projected(
            self._space, self.point_of(values), self._fits, self.point_of(feasible), rng
        )
        found = self.values_of(near)
        self._describe(found, run)
        return found

    def _describe(self, values: Values, run: RunConfig | None = None) -> _Described:
        """Return the cached data of a point; `run`, if passed, saves decoding it."""
        name = repr(values)
        found = self._described.pop(name, None)
        if found is None:
            point = self.point_of(values)
            costs = self._cost_model((run or decode(self._space, point)).model)
            known = [
                goal.sign * costs[goal.metric] if goal.is_cost else np.nan
                for goal in self._objectives
            ]
            features = self._encoding(point, {name: costs[name] for name in self._costs})
            key = repr(active(self._space, point))
            found = _Described(features, np.array(known, dtype=np.float64), key)
        self._described[name] = found
        if len(self._described) > REMEMBERED:
            self._described.popitem(last=False)
        return found


def _nudged(domain: Domain, value: Value, rng: Random) -> Value:
    """Return a value near another, or any."""
    return domain.sample(rng) if rng.random() < REDRAWN else domain.moved(value, STEP, rng)
