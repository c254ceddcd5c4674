"""Encodes points as features: the choice of each layer, trends over depth, exact costs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import log2, sqrt
from operator import mul

import numpy as np

from reports.pareto import Points
from search.samplers.pareto.surrogate import Groups
from space.decode import operators_of
from space.point import Point, Space


class Encoding:
    """Writes the points of a space as features for a surrogate.

    A dimension of the blocks gives the choice of every layer, a Hamming distance over depth, and,
    smoothly, its mean over the layers and how it changes from the first to the last. Blocks
    beyond a point's depth and fields that an operator ignores are as far from one value as from
    any other. Costs enter as their base-2 logarithms.
    """

    def __init__(self, space: Space, costs: Sequence[str]) -> None:
        self._space, self._costs = space, tuple(costs)

    def __call__(self, point: Point, costs: Mapping[str, float]) -> Points:
        """Return the features of a point, (feature), from the point and its costs."""
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
            target, domain = dimension.target, dimension.domain
            if not target.is_per_block:
                yield domain.features(point[target.path])
                continue
            absent = [0.0] * domain.num_features
            layers = [
                domain.features(point[self._space.name_at(dimension, layer, depth)])
                if target.is_used_by(operators[layer])
                else absent
                for layer in range(depth)
            ]
            if dimension.tie != "all":
                yield _by_slot(layers, self._space.max_depth, domain.num_features)
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
