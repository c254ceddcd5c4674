"""The rules by which a training is given up, each over the trials that reached a rung."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from search.stoppers.registry import Standing


def layers(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the layer of each point in a non-dominated sorting, 0 for the front.

    Smaller is better. Equal points share a layer; a point with a NaN is in layer 0 and takes part
    in nothing.
    """
    import numpy as np

    from reports.pareto import dominated

    found = [0] * len(points)
    left = list(range(len(points)))
    layer = 0
    while left:
        table = np.array([points[index] for index in left], dtype=np.float64)
        behind = dominated(table, ["min"] * table.shape[1])
        left = [index for index, is_behind in zip(left, behind, strict=True) if is_behind]
        layer += 1
        for index in left:
            found[index] = layer
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoHalving:
    """Successive halving by non-domination.

    A trial goes on when any of these holds:

    * no other at the rung dominates it;
    * trials of the same or a better non-domination rank are at most 1 / `reduction` of those at
    the rung;
    * fewer than `minimum` trials of its cost range have a better score.

    Trials that are equal, or of one rank, are judged alike.
    """

    reduction: float
    minimum: int
    """Number of trials of each cost range that go on at least."""

    def __call__(self, mine: Standing, others: Sequence[Standing]) -> bool:
        """Return whether a trial goes on."""
        if math.isnan(sum(mine.values)):
            return True
        ranks = layers([mine.values, *(other.values for other in others)])
        as_good = sum(rank <= ranks[0] for rank in ranks)
        if ranks[0] == 0 or as_good * self.reduction <= len(ranks):
            return True
        near = [other for other in others if other.cost_range == mine.cost_range]
        return sum(other.score < mine.score for other in near) < self.minimum


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyHalving:
    """Asynchronous successive halving by the first measured objective alone, whatever it costs.

    A trial goes on when fewer than a rung's 1 / `reduction`, at least one, are strictly better
    (Li et al. 2020, "A system for massively parallel hyperparameter tuning", in the variant that
    stops for good).
    """

    reduction: float

    def __call__(self, mine: Standing, others: Sequence[Standing]) -> bool:
        """Return whether a trial goes on."""
        better = sum(other.score < mine.score for other in others)
        return better < max(1, math.floor((len(others) + 1) / self.reduction))


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianRule:
    """A trial goes on unless it is worse than the median of the first measured objective.

    Golovin et al. 2017, "Google Vizier", but with the values of the others at the same rung
    instead of their running means.
    """

    after: int
    """Number of other trials that must have reached the rung before one is stopped there."""

    def __call__(self, mine: Standing, others: Sequence[Standing]) -> bool:
        """Return whether a trial goes on."""
        scores = [other.score for other in others if not math.isnan(other.score)]
        return len(scores) < self.after or not mine.score > median(scores)


DOUBLING = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Rungs that are twice as far as the one before."""
CLOSER = tuple(2.0 ** (-step / 2.0) for step in range(8, 0, -1))
"""The same with a rung between each two and one after the last, by the square root of two."""


def go_on(_: Standing, __: Sequence[Standing]) -> bool:
    """Let every trial go on."""
    return True
