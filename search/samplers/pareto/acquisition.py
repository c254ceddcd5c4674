"""The acquisition function: the expected hypervolume improvement of a candidate."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from reports.pareto import Mask, Points
from search.samplers.pareto.improvement import Forecast, expected_improvement
from search.samplers.pareto.surrogate import Groups, Surrogate


FEWEST_RESULTS = 3
"""Trials with a result before a surrogate is trusted; until then candidates fill the space."""
SMALLEST_STD = 1e-9
NADIR_MARGIN = 0.1
"""Margin beyond the worst observed value, as a fraction of the observed range, for objectives
without a reference value."""
DEAR, PATIENCE = 2.0 / 3.0, 4
"""The part of the cost range from which a candidate is expensive, and after how many cheaper
trials in a row expensive candidates are ranked first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Encoded candidates or trials; every objective is minimised."""

    features: Points
    """(row, feature), scaled so that a distance of 1 is large."""
    values: Points
    """(row, objective): the costs; NaN for objectives that training measures."""

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: NDArray[np.intp] | Mask) -> "Encoded":
        return Encoded(features=self.features[rows], values=self.values[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The trials so far, running ones included."""

    trials: Encoded
    """`values` are NaN for objectives that a running trial has not measured yet."""
    doubt: Points
    """(row, objective), the standard deviation of a forecast value, 0 of a measured one."""
    excess: Points = field(default_factory=lambda: np.empty((0, 0)))
    """(row, bound), how far a trial exceeds each learnt bound that is not on an objective; NaN if
    it was not measured. Bounds on objectives are part of the reference."""

    @property
    def measured(self) -> Mask:
        """(row), whether the trial has a result."""
        return np.asarray(np.isfinite(self.trials.values).all(axis=1))

    def is_informative(self, goal: "Goal") -> bool:
        """Return whether there are enough results for a surrogate, or none is needed."""
        return not goal.learnt.any() or int(self.measured.sum()) >= FEWEST_RESULTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The objectives, and the groups of features."""

    groups: Groups
    """The features' columns, by group."""
    learnt: Mask
    """(objective), whether training measures it."""
    reference: Points
    """(objective), the reference value; NaN derives it from the trials."""


class Score(Protocol):
    """Rates candidates; higher is better."""

    def __call__(self, candidates: Encoded) -> Points:
        """Return the score of every candidate."""


def acquisition(goal: Goal, history: History) -> Score:
    """Return the acquisition function, conditioned on the trials so far.

    Once a few trials have results, the score is the exact expected hypervolume improvement: each
    learnt objective has one Gaussian process, the others are exact, and running trials count with
    their predicted result. Before, the score is the distance to the nearest trial.

    Near the budget a candidate can add little hypervolume, so a short search would never go there.
    If several trials in a row were cheaper, expensive candidates are ranked first, by their
    improvement of the learnt objectives alone.
    """
    if not history.is_informative(goal):
        return _Distance(history.trials.features)
    improvement = _Improvement(goal, history)
    return _Dear(improvement) if improvement.is_dear_due else improvement


class _Distance:
    """Rates candidates by the distance to the nearest trial."""

    def __init__(self, trials: Points) -> None:
        self._trials = trials

    def __call__(self, candidates: Encoded) -> Points:
        if not len(self._trials):
            return np.zeros(len(candidates))
        gaps = candidates.features[:, None, :] - self._trials[None, :, :]
        return (gaps**2).sum(axis=2).min(axis=1)


class _Improvement:
    """Rates candidates by their expected hypervolume improvement."""

    def __init__(self, goal: Goal, history: History) -> None:
        self._goal, self._trials = goal, history.trials
        measured = history.measured
        running = history.trials[~measured]
        self._surrogates = {
            int(objective): Surrogate(
                history.trials.features[measured],
                history.trials.values[measured, objective],
                goal.groups,
                history.doubt[measured, objective],
            )
            for objective in np.flatnonzero(goal.learnt)
        }
        expected = self._forecast(running).mean
        for objective, surrogate in self._surrogates.items():
            surrogate.imagine(running.features, expected[:, objective])
        self._overruns = [*_overruns(goal, history)]
        whole = measured & (history.doubt == 0.0).all(axis=1)
        if self._overruns:
            whole &= (history.excess <= 0.0).all(axis=1)
        self._front = np.concatenate([history.trials.values[whole], expected])
        seen = np.concatenate([history.trials.values[measured], expected])
        self._reference = _completed(goal.reference, seen)

    def __call__(self, candidates: Encoded) -> Points:
        gain = expected_improvement(self._forecast(candidates), self._front, self._reference)
        return gain * self._feasibility(candidates)

    def _feasibility(self, candidates: Encoded) -> Points:
        """Return how likely each candidate is within the bounds that must be learnt.

        Constrained expected improvement: Gardner et al., Bayesian Optimization with Inequality
        Constraints, 2014.
        """
        likely = np.ones(len(candidates))
        for overrun in self._overruns:
            mean, std = overrun.predict(candidates.features)
            likely *= norm.cdf(-mean / np.maximum(std, SMALLEST_STD))
        return likely

    @property
    def is_dear_due(self) -> bool:
        """Whether an expensive candidate is due: the last trials were all cheaper."""
        learnt = self._goal.learnt
        if len(self._trials) % (PATIENCE + 1) or learnt.all() or not learnt.any():
            return False
        latest = self._trials[np.arange(-PATIENCE, 0)]
        return bool((self.spent(latest) < DEAR).all())

    def spent(self, candidates: Encoded) -> Points:
        """Return the position of each candidate in the range of costs, of several the largest.

        The range is from the cheapest trial, 0, to the reference value, 1.
        """
        known = ~self._goal.learnt
        low = self._trials.values[:, known].min(axis=0)
        width = self._reference[known] - low
        above = candidates.values[:, known] - low
        parts = np.divide(above, width, out=np.zeros_like(above), where=width > 0.0)
        return parts.max(axis=1, initial=0.0)

    def costless(self, candidates: Encoded) -> Points:
        """Return the expected improvement of the learnt objectives alone."""
        learnt = self._goal.learnt
        forecast = self._forecast(candidates)
        learnt_alone = Forecast(mean=forecast.mean[:, learnt], std=forecast.std[:, learnt])
        front, reference = self._front[:, learnt], self._reference[learnt]
        gain = expected_improvement(learnt_alone, front, reference)
        return gain * self._feasibility(candidates)

    def _forecast(self, candidates: Encoded) -> Forecast:
        mean, std = candidates.values.copy(), np.zeros_like(candidates.values)
        for objective, surrogate in self._surrogates.items():
            mean[:, objective], std[:, objective] = surrogate.predict(candidates.features)
        return Forecast(mean=mean, std=std)


class _Dear:
    """Rates expensive candidates by their learnt objectives; others rank below."""

    def __init__(self, improvement: _Improvement) -> None:
        self._improvement = improvement

    def __call__(self, candidates: Encoded) -> Points:
        spent = self._improvement.spent(candidates)
        return np.where(spent < DEAR, spent - DEAR, self._improvement.costless(candidates))


def _overruns(goal: Goal, history: History) -> Iterator[Surrogate]:
    """Yield the surrogate of each learnt bound that at least one trial has measured."""
    for excess in history.excess.T:
        shown = np.isfinite(excess)
        if shown.any():
            features = history.trials.features[shown]
            yield Surrogate(features, excess[shown], goal.groups, np.zeros(int(shown.sum())))


def _completed(reference: Points, values: Points) -> Points:
    """Return the reference; a NaN is replaced by a value a little worse than the worst trial's."""
    if not np.isnan(reference).any() or not len(values):
        return np.nan_to_num(reference, nan=0.0)
    worst, best = values.max(axis=0), values.min(axis=0)
    beyond = worst + NADIR_MARGIN * np.maximum(worst - best, np.abs(worst))
    return np.where(np.isnan(reference), beyond, reference)
