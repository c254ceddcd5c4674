"""The strategy `trials`: asks a sampler for one candidate after the other."""

from collections.abc import Collection, Iterator, Sequence
from math import isnan
from random import Random

import numpy as np
from optuna.trial import Trial, TrialState as OptunaState

from castling.config import RunConfig
from reports.records import Record, TrialState
from search.context import SearchContext
from search.objectives import values_of, worst_values
from search.samplers import Refusal
from search.samplers.naming import sampler_named
from search.stoppers import NO_STOPPER
from search.strategies.contract import Turn
from search.study.asking import ask
from search.study.store import TrialStore
from space.budget import UNMEASURED
from space.domain import Value
from space.feasible import default_point, projected
from space.point import Point


LEARNT_CONSTRAINT = "learnt"
"""Name of the constraint that a trained trial violates: its overrun of a bound that is not on a
cost."""
STOPPED_CONSTRAINT = "stopped"
"""Name of the constraint that an early-stopped trial violates: the missing part of its epochs."""


class Trials:
    """Asks the sampler for candidates and reports their results to it.

    Every candidate has a new sampler, seeded by the search's seed and the candidate's number, so
    that an interrupted search proposes the same as an uninterrupted one.

    Args:
        context: of the search.
        store: the trials so far.
    """

    def __init__(self, context: SearchContext, store: TrialStore) -> None:
        self._context, self._config, self._store = context, context.config, store
        self._sampler = sampler_named(context.config.sampler)

    def first_points(self) -> list[dict[str, Value]]:
        """Return the recipe's points, the base config's, and the feasible point."""
        default = default_point(self._context.space)
        given = [default | self._context.space.each(point) for point in self._config.points]
        base = self._projected(default, Random(self._config.seed))
        return [*given, base, dict(self._context.feasible_point)]

    def ask(self, turn: Turn) -> Trial | None:
        """Return the sampler's next candidate; None if there are no more to train.

        After `max_refusals` rejections in a row one candidate is projected into the budget, from
        which the sampler may go on; after as many again the search ends.
        """
        limit = self._config.max_refusals
        if turn.rejected >= 2 * limit:
            return None
        trial = self._ask(turn.unfinished)
        if turn.rejected == limit - 1:
            near = self._projected(trial.params, Random(self._derived_seed(trial.number)))
            self._store.enqueue(near, skip_if_exists=True)
        return trial

    def tell(self, record: Record, finished: Collection[Record]) -> None:
        """End a trial in the Optuna study in the form that the sampler needs."""
        if record.state in (TrialState.TRAINED, TrialState.REPLAYED):
            self._tell_values(record, values_of(record, self._config.objectives))
        elif record.state == TrialState.FAILED:
            self._store.tell(record.trial, state=OptunaState.FAIL)
        elif record.state == TrialState.STOPPED:
            self._tell_stopped(record)
        elif record.state == TrialState.REFUSED and self._sampler.refusal == Refusal.WORST:
            worst = worst_values(record, self._config.objectives, finished)
            self._tell_values(record, worst)
        else:
            self._store.tell(record.trial, state=OptunaState.PRUNED)

    def _ask(self, unfinished: int | None) -> Trial:
        number = self._store.num_trials if unfinished is None else unfinished
        sampler = self._sampler.make(self._context, self._derived_seed(number))
        identity = None if unfinished is None else self._store.identity(unfinished)
        return ask(self._store.study, sampler, self._context.space.domains, identity)

    def _derived_seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])

    def _projected(self, point: Point, rng: Random) -> dict[str, Value]:
        """Return the point, projected into the budget."""
        feasible = self._context.feasible_point
        near, _ = projected(self._context.space, point, self._fits, feasible, rng)
        return near

    def _fits(self, run: RunConfig) -> bool:
        return self._context.cost_model(run.model).within(self._config.budget)

    def _tell_stopped(self, record: Record) -> None:
        """Report a trial that was stopped early, so that it is never among the study's best."""
        values = values_of(record, self._config.objectives)
        if self._sampler.refusal == Refusal.WORST:  # it would propose a pruned point for ever
            self._tell_values(record, values)
            return
        if len(values) == 1:  # Optuna takes none of several objectives
            self._store.set_intermediate_value(record.trial, record.epochs, values[0])
        self._store.tell(record.trial, state=OptunaState.PRUNED)

    def _tell_values(self, record: Record, values: Sequence[float]) -> None:
        """Report a trial's values, and as violated constraints why it does not count."""
        if any(map(isnan, values)):  # a metric that is not defined for this model
            self._store.tell(record.trial, state=OptunaState.FAIL)
            return
        trial = self._store.trial(record.trial)
        for name, violation in self._constraints(record):
            if name not in trial.constraints:
                trial.set_constraint(name, violation)
        self._store.tell(record.trial, values)

    def _constraints(self, record: Record) -> Iterator[tuple[str, float]]:
        """Yield the other constraints of a trial: every trial with values has the same ones.

        The missing part of a training is a constraint only for samplers that ignore pruned trials,
        and only if trials may be stopped.
        """
        if any(self._config.budget.bounds("training")):
            violation = self._config.budget.violation(record.metrics, "training")
            was_trained = record.state != TrialState.REFUSED
            yield LEARNT_CONSTRAINT, min(violation, UNMEASURED) if was_trained else 0.0
        if self._sampler.refusal == Refusal.WORST and self._config.stopper != NO_STOPPER:
            missing = 1.0 - record.epochs / record.epochs_planned
            yield STOPPED_CONSTRAINT, missing if record.state == TrialState.STOPPED else 0.0
