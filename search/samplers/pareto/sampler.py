"""`pareto` as one of Optuna's samplers: from a study's trials to its next point."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite, nan
from random import Random
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from castling.metrics import METRICS
from reports.records import RECORD_ATTRIBUTE, RUNGS_ATTRIBUTE, Record, TrialState
from search.samplers.pareto.candidates import Trial, propose
from search.samplers.pareto.forecast import forecast
from search.samplers.pareto.space_problem import Values
from space.budget import UNMEASURED, Bound


if TYPE_CHECKING:
    from search.context import SearchContext


class ParetoSampler(BaseSampler):
    """Proposes the point within the budget with the largest expected hypervolume improvement.

    The sampler has no state: its proposal depends on the study's trials and the seed alone.

    Args:
        context: of the search.
        seed: of what is drawn.
    """

    def __init__(self, context: "SearchContext", seed: int) -> None:
        self._problem, self._objectives = context.problem, context.objectives
        self._distributions = dict(context.distributions)
        self._rng = Random(seed)
        self._fallback = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Return the whole space: a point is chosen at once."""
        return self._distributions

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return the next point, or nothing if all points were tried."""
        trials = [
            told
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and (told := self._told(other)) is not None
        ]
        full = [told for told in trials if told.record.state == TrialState.TRAINED]
        before = [self._trial(told, full) for told in trials]
        chosen = propose(self._problem, before, self._rng)
        return {} if chosen is None else self._problem.point_of(chosen)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a value of a repeated point, as there are no new ones."""
        return self._fallback.sample_independent(study, trial, param_name, param_distribution)

    def _told(self, trial: FrozenTrial) -> "_Told | None":
        """Return the observation of a trial; None if it was rejected, repeated or not recorded."""
        stored = trial.user_attrs.get(RECORD_ATTRIBUTE)
        if stored is None or len(trial.params) < len(self._distributions):
            return None
        record = Record.from_data(stored, f"trial {trial.number}")
        if record.replay_of is not None or record.state == TrialState.REFUSED:
            return None
        point = self._problem.values_of(trial.params)
        return _Told(point=point, record=record, reached=_reached(trial))

    def _trial(self, told: "_Told", full: Sequence["_Told"]) -> Trial[Values]:
        """Return a trial for the proposer, with a forecast if it was stopped."""
        found = [told.value(goal.metric, full) for goal in self._objectives]
        signs = [goal.sign for goal in self._objectives]
        return Trial(
            point=told.point,
            identity=self._problem.identity(told.point),
            has_failed=told.record.state == TrialState.FAILED,
            values=tuple(sign * value for sign, (value, _) in zip(signs, found, strict=True)),
            doubt=tuple(doubt for _, doubt in found),
            excess=tuple(told.excess(bound) for bound in self._problem.learnt_bounds),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """The observation of a trial in the study."""

    point: Values
    record: Record
    reached: Mapping[int, Mapping[str, float]]
    """The measured objectives at each rung."""

    def value(self, metric: str, full: Sequence["_Told"]) -> tuple[float, float]:
        """Return a metric and its standard deviation, forecast where training was stopped.

        The value is NaN while the trial is running, or if no fully trained trial has a record of
        its last rung.
        """
        measured = float(self.record.value(metric))
        if METRICS[metric].is_cost or self.record.state != TrialState.STOPPED:
            return measured, 0.0
        rung = max(self.reached, default=-1)
        others = [
            (other.reached[rung][metric], float(other.record.value(metric)))
            for other in full
            if metric in other.reached.get(rung, ())
        ]
        if not others or metric not in self.reached[rung]:
            return nan, 0.0
        return forecast(metric, self.reached[rung][metric], others)

    def excess(self, bound: Bound) -> float:
        """Return how far the trial exceeds a bound; NaN unless it was trained in full."""
        if self.record.state != TrialState.TRAINED:
            return nan
        return min(bound.excess(self.record.value(bound.metric.name)), UNMEASURED)


def _reached(trial: FrozenTrial) -> dict[int, dict[str, float]]:
    """Return a trial's measured objectives at each rung, without malformed entries."""
    with suppress(ValueError, TypeError, AttributeError):
        return {
            int(rung): {name: float(value) for name, value in values.items() if isfinite(value)}
            for rung, values in trial.user_attrs.get(RUNGS_ATTRIBUTE, {}).items()
        }
    return {}
