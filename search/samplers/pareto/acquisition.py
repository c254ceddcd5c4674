"""What a candidate is worth after the trials so far: its expected gain of hypervolume."""

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
"""How far beyond the worst trial an objective without reference counts, in trials' ranges."""
DEAR, PATIENCE = 2.0 / 3.0, 4
"""From which part of the range of the costs on a candidate is dear, and how many trials in a row
may be cheaper before the next is sought among the dear ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Candidates or trials as the sampler sees them; every objective is written smaller better."""

    features: Points
    """(row, feature), scaled so that a distance of 1 is a large one."""
    values: Points
    """(row, objective): what is known before training, NaN elsewhere."""

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: NDArray[np.intp] | Mask) -> "Encoded":
        return Encoded(features=self.features[rows], values=self.values[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The trials so far, running ones included."""

    trials: Encoded
    """NaN in `values` is what a running trial has yet to show."""
    doubt: Points
    """(row, objective), the standard deviation of a value that is expected, 0 of one measured."""
    excess: Points = field(default_factory=lambda: np.empty((0, 0)))
    """(row, bound), how far a trial is over each bound that must be learnt and is not on an
    objective; NaN where it is not known. Bounds on objectives are in the reference."""

    @property
    def measured(self) -> Mask:
        """Which trials have a result."""
        return np.asarray(np.isfinite(self.trials.values).all(axis=1))

    def is_informative(self, goal: "Goal") -> bool:
        """Return whether there are results enough to learn from, if there is anything to learn."""
        return not goal.learnt.any() or int(self.measured.sum()) >= FEWEST_RESULTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is traded off, and how the features belong together."""

    groups: Groups
    """The features' columns, by group."""
    learnt: Mask
    """(objective), whether it is only known after training."""
    reference: Points
    """(objective), the worst value that counts; NaN takes it from the trials."""


class Score(Protocol):
    """Rates candidates; higher is better."""

    def __call__(self, candidates: Encoded) -> Points:
        """Return the score of every candidate."""


def acquisition(goal: Goal, history: History) -> Score:
    """Return what rates candidates after the trials so far.

    Once a few trials have results, the score is the exact expected hypervolume improvement: each
    learnt objective has a Gaussian process of its own, the others are known, and running trials
    count as if they had the result that is expected of them. Before, it is the distance to the
    nearest trial.

    Near the budget a candidate has little hypervolume left to add, so that a short search would
    never go there: every few trials, unless one of them did, the dear candidates come first, by
    what they add where costs count for nothing.
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
        """Whether it is time for a dear candidate: the last trials were all cheaper."""
        learnt = self._goal.learnt
        if len(self._trials) % (PATIENCE + 1) or learnt.all() or not learnt.any():
            return False
        latest = self._trials[np.arange(-PATIENCE, 0)]
        return bool((self.spent(latest) < DEAR).all())

    def spent(self, candidates: Encoded) -> Points:
        """Return what part of the range of its costs each candidate uses, the largest of them.

        The range reaches from the cheapest trial, 0, to the worst value that counts, 1.
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
    """Rates dear candidates by what they add to the learnt objectives; the others come after."""

    def __init__(self, improvement: _Improvement) -> None:
        self._improvement = improvement

    def __call__(self, candidates: Encoded) -> Points:
        spent = self._improvement.spent(candidates)
        return np.where(spent < DEAR, spent - DEAR, self._improvement.costless(candidates))


def _overruns(goal: Goal, history: History) -> Iterator[Surrogate]:
    """Yield what is believed of each learnt bound, once a trial has shown how far it is over."""
    for excess in history.excess.T:
        shown = np.isfinite(excess)
        if shown.any():
            features = history.trials.features[shown]
            yield Surrogate(features, excess[shown], goal.groups, np.zeros(int(shown.sum())))


def _completed(reference: Points, values: Points) -> Points:
    """Return the reference, where it is NaN a little worse than the worst trial."""
    if not np.isnan(reference).any() or not len(values):
        return np.nan_to_num(reference, nan=0.0)
    worst, best = values.max(axis=0), values.min(axis=0)
    beyond = worst + NADIR_MARGIN * np.maximum(worst - best, np.abs(worst))
    return np.where(np.isnan(reference), beyond, reference)
