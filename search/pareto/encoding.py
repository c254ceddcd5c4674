"""Points of a space as numbers: what each layer chose, how choices run over depth, exact costs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, log2, sqrt
from operator import mul

import numpy as np

from reports.pareto import Points
from search.pareto.surrogate import Groups
from space.decode import is_used, operators_of
from space.domain import Choice, FloatRange, Value
from space.point import Dimension, Point, Space


@dataclass(frozen=True, slots=True)
class _Scale:
    """The values of a dimension as numbers: one for an ordered one, else one per value."""

    dimension: Dimension

    @property
    def width(self) -> int:
        """Numbers per value."""
        return 1 if self._is_ordered else len(self._values)

    def __call__(self, value: Value) -> list[float]:
        """Return a value as numbers: -1 to 1, or one-hot so that two values differ by 1."""
        if not self._is_ordered:
            return [_is_same(known, value) / sqrt(2.0) for known in self._values]
        low, high = (self._number(end) for end in (min(self._ends), max(self._ends)))
        assert isinstance(value, int | float)
        return [0.0 if low == high else 2.0 * (self._number(value) - low) / (high - low) - 1.0]

    @property
    def _values(self) -> Sequence[Value]:
        return self.dimension.domain.extremes()

    @property
    def _ends(self) -> list[float]:
        return [float(value) for value in self._values if isinstance(value, int | float)]

    @property
    def _is_ordered(self) -> bool:
        return not isinstance(self.dimension.domain, Choice) or all(
            isinstance(value, int | float) and not isinstance(value, bool)
            for value in self._values
        )

    def _number(self, value: float) -> float:
        domain = self.dimension.domain
        return log(value) if isinstance(domain, FloatRange) and domain.log else float(value)


def _is_same(known: Value, value: Value) -> bool:
    """Return whether two values are equal; 1 and True are not."""
    return type(known) is type(value) and known == value


class Encoding:
    """Writes the points of a space as features for a surrogate.

    A dimension of the blocks gives the choice of every layer, a Hamming distance over depth, and,
    smoothly, its mean over the layers and how it changes from the first to the last. Blocks
    beyond a point's depth and fields that an operator ignores are as far from one value as from
    any other. Costs enter as their base-2 logarithms.
    """

    def __init__(self, space: Space, costs: Sequence[str]) -> None:
        self._space, self._costs = space, tuple(costs)
        self._scales = {dim.target: _Scale(dim) for dim in space.dimensions}

    def __call__(self, point: Point, costs: Mapping[str, float]) -> Points:
        """Return a point's features, (feature), given what it costs."""
        return np.array(
            [number for part in self._parts(point, costs) for number in part], dtype=np.float64
        )

    @cached_property
    def groups(self) -> Groups:
        """The columns of the features that share a weight."""
        point = {name: domain.extremes()[0] for name, domain in self._space.domains.items()}
        groups, begin = [], 0
        for part in self._parts(point, dict.fromkeys(self._costs, 1.0)):
            groups.append(tuple(range(begin, begin + len(part))))
            begin += len(part)
        return tuple(groups)

    def _parts(self, point: Point, costs: Mapping[str, float]) -> Iterator[list[float]]:
        """Yield the features, group by group."""
        depth = self._space.depth(point)
        operators = operators_of(self._space, point)
        for dimension in self._space.dimensions:
            scale = self._scales[dimension.target]
            if not dimension.is_per_block:
                yield scale(point[dimension.target])
                continue
            absent = [0.0] * scale.width
            layers = [
                scale(point[self._space.name_at(dimension, layer, depth)])
                if is_used(dimension.block_field, operators[layer])
                else absent
                for layer in range(depth)
            ]
            if dimension.tie != "all":
                yield _by_slot(layers, self._space.max_depth, scale.width)
            yield _profile(layers)
        for cost in self._costs:
            yield [log2(max(costs[cost], 1e-9))]


def _by_slot(layers: list[list[float]], slots: int, width: int) -> list[float]:
    """Return the layers' numbers one after another, zeros beyond the last layer."""
    padded = layers + [[0.0] * width] * (slots - len(layers))
    return [number / sqrt(slots) for layer in padded for number in layer]


def _profile(layers: list[list[float]]) -> list[float]:
    """Return the mean of each number over the layers, and its trend from first to last."""
    depth = len(layers)
    places = [(layer + 0.5) / depth - 0.5 for layer in range(depth)]
    columns = [*zip(*layers, strict=True)]
    means = [sum(column) / depth for column in columns]
    trends = [2.0 * sum(map(mul, places, column)) / depth for column in columns]
    return [*means, *trends]
