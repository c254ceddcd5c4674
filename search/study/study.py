"""The study: candidates asked of the sampler, results told to it, all recorded as they come."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isnan
from random import Random
from typing import Any, Self

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState as OptunaState

from castling.config import RunConfig
from castling.errors import ConfigError, InvalidPointError
from castling.model.check import digest, run_config
from castling.training.metrics import EpochMetrics
from reports.curves import recorded
from reports.records import (
    CONFIG_ATTRIBUTE,
    RECORD_ATTRIBUTE,
    RUNGS_ATTRIBUTE,
    Record,
    TrialState,
)
from search.config import SearchConfig
from search.objectives import values_of, worst_values
from search.samplers import BUDGET_CONSTRAINT, Refusal, Setting, sampler_named
from search.stoppers import NO_STOPPER
from search.study.asking import ask
from space.budget import UNMEASURED
from space.decode import active, decode
from space.domain import Value
from space.feasible import default_point, projected
from space.point import Point


LEARNT_CONSTRAINT = "learnt"
"""Name of the constraint that a trained trial violates: its overrun of a bound that is not on a
cost."""
STOPPED_CONSTRAINT = "stopped"
"""Name of the constraint that an early-stopped trial violates: the missing part of its epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate to train: within the budget and unlike every earlier one."""

    trial: int
    run: RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a training ended."""

    state: TrialState
    """TRAINED, STOPPED or FAILED."""
    reason: str = ""
    """Why it failed."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By name, those of training."""
    epochs: int = 0
    out_of_memory: bool = False
    """Whether it failed for want of memory."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Build an outcome from the plain values that a worker reports."""
        return cls(**{**data, "state": TrialState(data["state"])})

    @classmethod
    def of(cls, metrics: EpochMetrics, state: TrialState) -> Self:
        """Build the outcome of a training that ended, or was stopped, after an epoch."""
        return cls(state=state, metrics=recorded(metrics), epochs=metrics.epoch)


class SearchStudy:
    """Asks the sampler for candidates and tells it what became of them.

    The Optuna study is the truth, and opening it again continues the search: finished trials stay
    finished, interrupted ones are proposed again. The sampler is made anew for every proposal,
    seeded by the search's seed and the number of proposals so far, so that an interrupted search
    proposes what the uninterrupted one would have.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        config: SearchConfig,
        setting: Setting,
        on_record: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._study, self._storage, self._config, self._setting = study, storage, config, setting
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._space, self._pricing = setting.space, setting.pricing
        self._sampler = sampler_named(config.sampler)
        self._on_record = on_record
        self._running: dict[int, Record] = {}
        self._runs: dict[int, RunConfig] = {}
        self._deaths: Counter[int] = Counter()
        self._halved: set[int] = set()
        self._finished: dict[str, Record] = {}
        self._twins: dict[str, list[Record]] = {}
        self._interrupted: deque[Proposal] = deque()
        self._torn: deque[int] = deque()
        self._num_rejected = 0
        self._latest = datetime.fromtimestamp(0, UTC)
        self.num_started = 0
        """Trials given to training so far, those of earlier drivers included."""
        self.exhausted = False
        """Whether the space has run out of new points within the budget."""
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            self._reopen(trial)
        for point in self._first_points()[len(trials) :]:  # a crash may have cut them short
            self._study.enqueue_trial(point)

    @property
    def records(self) -> list[Record]:
        """The trials that were trained, stopped, or failed, replays left out."""
        return [*self._finished.values()]

    @property
    def running(self) -> Mapping[int, Record]:
        """The trials given to training that have not ended, by number; interrupted ones too."""
        return self._running

    def propose(self) -> Proposal | None:
        """Return the next candidate to train, or None when there will be no more."""
        if self._interrupted:
            return self._interrupted.popleft()
        if self.exhausted:
            return None
        limit = self._config.max_refusals
        while self._num_rejected < 2 * limit:
            if self.num_started >= self._config.trials:
                return None
            trial = self._ask()
            if self._num_rejected == limit - 1:
                seed = _derived_seed(self._config.seed, trial.number)
                near = self._projected(trial.params, Random(seed))
                self._study.enqueue_trial(near, skip_if_exists=True)
            proposal = self._consider(trial)
            if proposal is not None:
                self._num_rejected = 0
                return proposal
            self._num_rejected += 1
        self.exhausted = True
        return None

    def note(self, trial: int, reached: Mapping[int, Mapping[str, float]]) -> None:
        """Store what a running trial's measured objectives were at each rung."""
        stored = {str(rung): dict(values) for rung, values in reached.items()}
        self._storage.set_trial_user_attr(self._identity(trial), RUNGS_ATTRIBUTE, stored)

    def finish(self, trial: int, outcome: Outcome) -> None:
        """Record how a trial's training ended and tell the sampler."""
        record = self._running.pop(trial)
        del self._runs[trial]
        record = record.replace(
            state=outcome.state,
            reason=outcome.reason or record.reason,
            metrics={**record.metrics, **outcome.metrics},
            epochs=outcome.epochs,
        )
        self._finish(record)

    def again(self, trial: int, *, out_of_memory: bool = False) -> bool:
        """Give a trial that broke down to training once more; return whether it may be.

        A trial whose worker died goes on from its checkpoint, as often as the search's `retries`
        say. One that ran out of memory begins anew with half the batch, once, if the search says
        so; of a dead worker that is not known, so that it may be either.
        """
        halved = self._config.halve_batch and self._halve(trial)
        if not halved and (out_of_memory or self._deaths[trial] >= self._config.retries):
            return False
        self._deaths[trial] += not out_of_memory
        self._interrupted.append(Proposal(trial=trial, run=self._runs[trial]))
        return True

    def _halve(self, trial: int) -> bool:
        """Halve a trial's batch unless that was done before; return whether it is halved now."""
        train = self._runs[trial].train
        if trial in self._halved or train.batch_size == 1:
            return False
        self._halved.add(trial)
        size = train.batch_size // 2
        run = self._runs[trial].replace(train=train.replace(batch_size=size))
        self._runs[trial] = run
        identity = self._identity(trial)
        self._storage.set_trial_user_attr(identity, CONFIG_ATTRIBUTE, run.to_data())
        reason = f"trained with batches of {size}, for want of memory"
        self._running[trial] = self._running[trial].replace(reason=reason)
        self._store(self._running[trial])
        return True

    def _ask(self) -> Trial:
        """Return a new trial, or the one that an earlier driver was asking for when it died."""
        torn = self._torn.popleft() if self._torn else None
        number = len(self._study.get_trials(deepcopy=False)) if torn is None else torn
        sampler = self._sampler.make(self._setting, _derived_seed(self._config.seed, number))
        again = None if torn is None else self._identity(torn)
        return ask(self._study, sampler, self._space.domains, again)

    def _first_points(self) -> list[dict[str, Value]]:
        """Return the points to try first: the recipe's, the base config, the feasible point."""
        default = default_point(self._space)
        rng = Random(self._config.seed)
        given = [default | point for point in self._config.points]
        return [*given, self._projected(default, rng), dict(self._setting.feasible_point)]

    def _projected(self, point: Point, rng: Random) -> dict[str, Value]:
        """Return the point, brought within the budget."""
        feasible = self._setting.feasible_point
        near, _ = projected(self._space, point, self._fits, feasible, rng)
        return near

    def _fits(self, run: RunConfig) -> bool:
        return self._pricing(run.model).within(self._config.budget)

    def _consider(self, trial: Trial) -> Proposal | None:
        """Refuse or replay a proposal, or begin it and return it."""
        try:
            run = decode(self._space, trial.params)
        except ConfigError:  # its values contradict one another: no model, so no cost to record
            self._study.tell(trial, state=OptunaState.FAIL)
            return None
        spent = self._pricing(run.model)
        violation = spent.violation(self._config.budget)
        if BUDGET_CONSTRAINT not in trial.constraints:
            trial.set_constraint(BUDGET_CONSTRAINT, violation)
        record = Record(
            trial=trial.number,
            state=TrialState.RUNNING,
            metrics=dict(spent),
            config_id=digest(run),
            point=active(self._space, trial.params),
            epochs_planned=run.train.epochs,
            started_at=self._now(),
        )
        if violation > 0.0:
            reason = f"over budget: {spent.words(self._config.budget)}"
            self._finish(record.replace(state=TrialState.REFUSED, reason=reason))
            return None
        trial.set_user_attr(CONFIG_ATTRIBUTE, run.to_data())
        return self._begin(record, run)

    def _begin(self, record: Record, run: RunConfig) -> Proposal | None:
        """Return the trial as a proposal unless an equal one is finished or running."""
        known = self._finished.get(record.config_id)
        if known is not None:
            self._replay(record, known)
            return None
        original = next(
            (
                other.trial
                for other in self._running.values()
                if other.config_id == record.config_id
            ),
            None,
        )
        record = record.replace(replay_of=original)
        self._store(record)
        if original is not None:
            self._twins.setdefault(record.config_id, []).append(record)
            return None
        self._running[record.trial], self._runs[record.trial] = record, run
        self.num_started += 1
        return Proposal(trial=record.trial, run=run)

    def _replay(self, record: Record, known: Record) -> None:
        full = known.state == TrialState.TRAINED
        self._finish(
            known.replace(
                trial=record.trial,
                state=TrialState.REPLAYED if full else known.state,
                replay_of=known.trial,
                started_at=record.started_at,
            )
        )

    def _finish(self, record: Record) -> None:
        """Store a trial's last record, then tell the sampler, then replay it for its twins."""
        record = record.replace(finished_at=self._now())
        self._store(record)
        self._tell(record)
        if record.replay_of is None and record.state != TrialState.REFUSED:
            self._finished[record.config_id] = record
            for twin in self._twins.pop(record.config_id, []):
                self._replay(twin, record)

    def _store(self, record: Record) -> None:
        identity = self._identity(record.trial)
        self._storage.set_trial_user_attr(identity, RECORD_ATTRIBUTE, record.to_data())
        self._on_record(record)

    def _tell(self, record: Record) -> None:
        if record.state in (TrialState.TRAINED, TrialState.REPLAYED):
            self._tell_values(record, values_of(record, self._config.objectives))
        elif record.state == TrialState.FAILED:
            self._study.tell(record.trial, state=OptunaState.FAIL)
        elif record.state == TrialState.STOPPED:
            self._tell_stopped(record)
        elif record.state == TrialState.REFUSED and self._sampler.refusal == Refusal.WORST:
            worst = worst_values(record, self._config.objectives, self._finished.values())
            self._tell_values(record, worst)
        else:
            self._study.tell(record.trial, state=OptunaState.PRUNED)

    def _tell_stopped(self, record: Record) -> None:
        """Tell of a trial that was stopped early, so that it is never among the study's best."""
        values = values_of(record, self._config.objectives)
        if self._sampler.refusal == Refusal.WORST:  # it would propose a pruned point for ever
            self._tell_values(record, values)
            return
        if len(values) == 1:  # Optuna takes none of several objectives
            identity = self._identity(record.trial)
            self._storage.set_trial_intermediate_value(identity, record.epochs, values[0])
        self._study.tell(record.trial, state=OptunaState.PRUNED)

    def _tell_values(self, record: Record, values: Sequence[float]) -> None:
        """Tell a trial's values, and as constraints what keeps it from counting."""
        if any(map(isnan, values)):  # a metric that is not defined for this model
            self._study.tell(record.trial, state=OptunaState.FAIL)
            return
        trial = Trial(self._study, self._identity(record.trial))
        for name, violation in self._constraints(record):
            if name not in trial.constraints:
                trial.set_constraint(name, violation)
        self._study.tell(record.trial, values)

    def _constraints(self, record: Record) -> Iterator[tuple[str, float]]:
        """Yield what else a trial must fulfil: every trial with values has the same constraints.

        How far it is from a full training counts only for samplers that take no pruned trials, and
        only where trials may be stopped.
        """
        if any(self._config.budget.bounds("training")):
            violation = self._config.budget.violation(record.metrics, "training")
            was_trained = record.state != TrialState.REFUSED
            yield LEARNT_CONSTRAINT, min(violation, UNMEASURED) if was_trained else 0.0
        if self._sampler.refusal == Refusal.WORST and self._config.stopper != NO_STOPPER:
            missing = 1.0 - record.epochs / record.epochs_planned
            yield STOPPED_CONSTRAINT, missing if record.state == TrialState.STOPPED else 0.0

    def _now(self) -> str:
        """Return the time, not before any that is recorded: the clock may have been set back."""
        self._latest = max(self._latest, datetime.now(UTC))
        return self._latest.isoformat(timespec="milliseconds")

    def _note_times(self, record: Record) -> None:
        """Take note of the times of a record that an earlier driver stored."""
        for known in (record.started_at, record.finished_at):
            with suppress(ValueError, TypeError):  # none, or none that is a time
                self._latest = max(self._latest, datetime.fromisoformat(known))

    def _identity(self, trial: int) -> int:
        """Return the storage's number of a trial."""
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial)

    def _reopen(self, trial: FrozenTrial) -> None:
        """Take a stored trial into account: finished, interrupted, or never recorded."""
        if trial.state == OptunaState.WAITING:
            return
        stored = trial.user_attrs.get(RECORD_ATTRIBUTE)
        if stored is None:
            if trial.state == OptunaState.RUNNING:  # the driver died before it was recorded
                self._torn.append(trial.number)
            else:
                self._num_rejected += 1
            return
        record = Record.from_data(stored, f"trial {trial.number}")
        record = record.replace(config_id=self._digest_of(trial) or record.config_id)
        self._note_times(record)
        is_new = record.replay_of is None and record.state != TrialState.REFUSED
        self._num_rejected = 0 if is_new else self._num_rejected + 1
        if record.state == TrialState.RUNNING:
            run = run_config(trial.user_attrs[CONFIG_ATTRIBUTE], f"trial {trial.number}")
            proposal = self._begin(record.replace(replay_of=None), run)
            if proposal is not None:
                self._interrupted.append(proposal)
            return
        if trial.state == OptunaState.RUNNING:  # the driver died before the sampler was told
            self._tell(record)
        if is_new:
            self._finished[record.config_id] = record
            self.num_started += 1

    def _digest_of(self, trial: FrozenTrial) -> str | None:
        """Return the digest of a stored trial's config as this version computes it.

        The record has that of the version which wrote it. None where the point no longer decodes.
        """
        try:
            return digest(decode(self._space, trial.params))
        except (ConfigError, InvalidPointError):
            return None


def _derived_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
