"""The metrics of all trials at each rung, and which trials go on: the state of the stoppers."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from castling.metrics import METRICS
from castling.training.metrics import EpochMetrics
from reports.curves import read_curve, recorded
from reports.records import Objective, Record
from search.context import SearchContext
from search.stoppers import STOPPERS, Standing, StopperSpec
from space.decode import decode
from space.feasible import max_cost_point, min_cost_point


NUM_RANGES = 3
"""Ranges of cost, each with a minimum of trials that go on: small, middle and large models."""


def rung_epochs(fractions: Iterable[float], epochs_planned: int) -> list[int]:
    """Return the epoch of each rung; at the end of a training no trial is judged."""
    # rounded first: 0.7 * 10 is a little more than 7
    return [math.ceil(round(fraction * epochs_planned, 6)) for fraction in fractions]


@dataclass(frozen=True, slots=True)
class CostRanges:
    """Ranges of a cost, of equal ratio from the cheapest model to the budget."""

    metric: str | None
    """None if no objective is a cost to minimise: then there is one range."""
    edges: tuple[float, ...] = ()
    """Where the second and later ranges begin."""

    def of(self, record: Record) -> int:
        """Return the range of a trial's cost, 0 the cheapest."""
        if self.metric is None:
            return 0
        return bisect_right(self.edges, float(record.value(self.metric)))

    @classmethod
    def within(cls, low: float, high: float, metric: str) -> "CostRanges":
        """Divide the costs from low to high; one range if they are equal."""
        if not 0.0 < low < high < math.inf:
            return cls(None)
        steps = range(1, NUM_RANGES)
        return cls(metric, tuple(low * (high / low) ** (step / NUM_RANGES) for step in steps))


def cost_ranges(context: SearchContext) -> CostRanges:
    """Return the ranges of the first objective that is a cost to minimise."""
    metrics = [
        goal.metric for goal in context.objectives if goal.is_cost and goal.direction == "min"
    ]
    if not metrics:
        return CostRanges(None)
    [metric, *_] = metrics
    ends = [find(context.space, "macs") for find in (min_cost_point, max_cost_point)]
    costs = [context.cost_model(decode(context.space, point).model) for point in ends]
    low, high = (float(spent[metric]) for spent in costs)
    bound = context.budget.bound(metric, "max")
    return CostRanges.within(low, high if bound is None else min(high, float(bound)), metric)


class Rungs:
    """The metrics of every trial at each rung.

    A trial is compared with those that reached the same rung, hence at the same part of the
    epochs and of the schedules of learning rate and mask. The answer depends on who has reached
    the rung, not on their order, and a trial that is reported again replaces its entry: rungs that
    are read from the curves on disk decide as before.

    Args:
        stopper: the rule that decides.
        objectives: of the search.
        ranges: of the cost.
    """

    def __init__(
        self, stopper: StopperSpec, objectives: Sequence[Objective], ranges: CostRanges
    ) -> None:
        self._stopper, self._objectives, self._ranges = stopper, tuple(objectives), ranges
        self._reached: list[dict[int, Standing]] = [{} for _ in stopper.fractions]

    @classmethod
    def of(cls, context: SearchContext) -> "Rungs":
        """Return the empty rungs of a search's stopper."""
        return cls(STOPPERS[context.config.stopper], context.objectives, cost_ranges(context))

    def epochs(self, epochs_planned: int) -> list[int]:
        """Return the epochs after which a trial is to be judged, rising."""
        found = rung_epochs(self._stopper.fractions, epochs_planned)
        return sorted({epoch for epoch in found if epoch < epochs_planned})

    def note(self, record: Record, curve: Sequence[EpochMetrics]) -> list[int]:
        """Record a trial's epochs so far and return the numbers of the rungs that it just reached.

        Args:
            record: of the trial.
            curve: its epochs from the first on; the last is the one that it has just ended.
        """
        epoch = curve[-1].epoch
        if epoch >= record.epochs_planned:
            return []
        planned = rung_epochs(self._stopper.fractions, record.epochs_planned)
        reached = [rung for rung, at in enumerate(planned) if at == epoch]
        for rung in reached:
            self._reached[rung][record.trial] = self._standing(record, curve)
        return reached

    def reached(self, trial: int) -> dict[int, dict[str, float]]:
        """Return a trial's measured objectives at each rung: the best so far."""
        found = {}
        for rung, marks in enumerate(self._reached):
            if trial in marks:
                values = zip(self._objectives, marks[trial].values, strict=True)
                found[rung] = {
                    goal.metric: goal.sign * value
                    for goal, value in values
                    if not goal.is_cost and math.isfinite(value)
                }
        return found

    def goes_on(self, record: Record, curve: Sequence[EpochMetrics]) -> bool:
        """Record a trial's epochs so far and return whether its training goes on."""
        return all(
            self._stopper.goes_on(
                self._reached[rung][record.trial],
                [mark for trial, mark in self._reached[rung].items() if trial != record.trial],
            )
            for rung in self.note(record, curve)
        )

    def read_back(self, run: Path, records: Iterable[Record]) -> None:
        """Record the epochs of a run's earlier trials, interrupted ones included."""
        if not self._stopper.fractions:
            return
        for record in records:
            curve = read_curve(run, record.trial)
            for count in range(1, len(curve) + 1):
                self.note(record, curve[:count])

    def _standing(self, record: Record, curve: Sequence[EpochMetrics]) -> Standing:
        values = [_value(goal, record, curve) for goal in self._objectives]
        measured = [
            value for goal, value in zip(self._objectives, values, strict=True) if not goal.is_cost
        ]
        return Standing(
            values=tuple(values),
            score=measured[0] if measured else math.nan,
            cost_range=self._ranges.of(record),
        )


def _value(goal: Objective, record: Record, curve: Sequence[EpochMetrics]) -> float:
    """Return an objective's value so far, to minimise: the cost, or the best of the epochs."""
    if goal.is_cost:
        return goal.sign * float(record.value(goal.metric))
    values = [goal.sign * recorded(epoch).get(goal.metric, math.nan) for epoch in curve]
    return min(values) if METRICS[goal.metric].improves else values[-1]
