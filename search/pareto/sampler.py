"""`pareto` as one of Optuna's samplers: from a study's trials to its next point."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from reports.records import RECORD_ATTRIBUTE, Objective, Record, TrialState
from search.objectives import values_of
from search.pareto.candidates import Trial, propose
from search.pareto.space_problem import SpaceProblem, Values


class ParetoSampler(BaseSampler):
    """Proposes the point within the budget that is expected to widen the front most.

    It keeps no state: what it proposes depends on the study's trials and the seed alone.

    Args:
        problem: the space under its budget.
        objectives: what is traded off, in the problem's order.
        distributions: of the space's names.
        seed: of what is drawn.
    """

    def __init__(
        self,
        problem: SpaceProblem,
        objectives: Sequence[Objective],
        distributions: Mapping[str, BaseDistribution],
        seed: int,
    ) -> None:
        self._problem, self._objectives = problem, tuple(objectives)
        self._distributions = dict(distributions)
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
        """Return the next point, or nothing when there is none that was not tried."""
        before = [
            known
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
            for known in self._trial(other)
        ]
        chosen = propose(self._problem, before, self._rng)
        return {} if chosen is None else self._problem.point_of(chosen)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a value of a point that repeats another, for want of new ones."""
        return self._fallback.sample_independent(study, trial, param_name, param_distribution)

    def _trial(self, trial: FrozenTrial) -> list[Trial[Values]]:
        """Return what a trial teaches: nothing when it was refused or replayed, or is unknown."""
        stored = trial.user_attrs.get(RECORD_ATTRIBUTE)
        if stored is None or len(trial.params) < len(self._distributions):
            return []
        record = Record.from_data(stored, f"trial {trial.number}")
        if record.replay_of is not None or record.state == TrialState.REFUSED:
            return []
        return [
            Trial(
                point=self._problem.values_of(trial.params),
                identity=record.config_id,
                has_failed=record.state == TrialState.FAILED,
                values=tuple(
                    goal.sign * value
                    for goal, value in zip(
                        self._objectives, values_of(record, self._objectives), strict=True
                    )
                ),
                fidelity=_fidelity(record),
            )
        ]


def _fidelity(record: Record) -> float:
    if record.state != TrialState.STOPPED or not record.epochs_planned:
        return 1.0
    return record.epochs / record.epochs_planned
