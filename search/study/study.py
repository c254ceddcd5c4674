"""The study: takes candidates from the strategy, has them trained, and records all trials."""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState as OptunaState

from castling.config import RunConfig
from castling.errors import ConfigError, InvalidPointError
from castling.model.check import digest, run_config
from castling.training.out_of_memory import with_less_memory
from castling.training.seeds import seeded, trial_seeds
from reports.records import CONFIG_ATTRIBUTE, RECORD_ATTRIBUTE, Objective, Record, TrialState
from search.context import SearchContext
from search.samplers import BUDGET_CONSTRAINT
from search.strategies import STRATEGIES, Turn
from search.study.store import TrialStore
from search.study.trial import Outcome, Proposal
from space.decode import active, decode


class SearchStudy:
    """Connects the strategy, which proposes candidates, and the executor, which trains them.

    The Optuna study is the truth, and opening it again continues the search: finished trials stay
    finished, interrupted ones are proposed again.

    Args:
        study: as `open_study` returns it.
        storage: the study's.
        context: of the search.
        on_record: called with every record that is stored.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        context: SearchContext,
        on_record: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._store = TrialStore(study, storage)
        self._context, self._config = context, context.config
        self._strategy = STRATEGIES[context.config.strategy].make(context, self._store)
        self._on_record = on_record
        self._running: dict[int, Record] = {}
        self._runs: dict[int, RunConfig] = {}
        self._seeds: dict[int, tuple[int, ...]] = {}
        self._deaths: Counter[int] = Counter()
        self._divided: set[int] = set()
        self._finished: dict[str, Record] = {}
        self._duplicates: dict[str, list[Record]] = {}
        self._interrupted: deque[Proposal] = deque()
        self._unfinished: deque[int] = deque()
        self._num_rejected = 0
        self._latest = datetime.fromtimestamp(0, UTC)
        self.num_started = 0
        """Number of trials whose training has begun, those of earlier drivers included."""
        self.exhausted = False
        """Whether the strategy has run out of new points within the budget."""
        trials = self._store.trials
        for trial in trials:
            self._reopen(trial)
        first = self._strategy.first_points()
        for point in first[len(trials) :]:  # a crash may have cut them short
            self._store.enqueue(point)

    @property
    def records(self) -> list[Record]:
        """The trials that were trained, stopped, or failed, replays left out."""
        return [*self._finished.values()]

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of the search."""
        return self._context.objectives

    @property
    def running(self) -> Mapping[int, Record]:
        """The trials whose training has begun and not ended, by number; interrupted ones too."""
        return self._running

    def propose(self) -> Proposal | None:
        """Return the next candidate to train, or None when there will be no more."""
        if self._interrupted:
            return self._interrupted.popleft()
        while not self.exhausted and self.num_started < self._config.trials:
            proposal = self._next()
            if proposal is not None:
                return proposal
        return None

    def note(self, trial: int, reached: Mapping[int, Mapping[str, float]]) -> None:
        """Store a running trial's measured objectives at each rung."""
        self._store.set_rungs(trial, reached)

    def finish(self, trial: int, outcome: Outcome) -> None:
        """Record how a trial's training ended and report it to the strategy."""
        record, run = self._running.pop(trial), self._runs.pop(trial)
        del self._seeds[trial]
        if outcome.seed not in (None, run.train.seed):
            self._store.set_config(trial, seeded(run, outcome.seed))
        record = record.replace(
            state=outcome.state,
            reason=outcome.reason or record.reason,
            metrics={**record.metrics, **outcome.metrics},
            epochs=outcome.epochs,
        )
        self._finish(record)

    def again(self, trial: int, *, out_of_memory: bool = False) -> bool:
        """Train a trial again whose worker failed; return whether it may be trained again.

        A trial whose worker died goes on from its checkpoint, at most `retries` times. One that
        ran out of memory goes on with its batches in twice as many parts, once, if
        `double_accumulation` is set; a dead worker may have run out of memory too, so its batches
        are divided as well.
        """
        divided = self._config.double_accumulation and self._divide(trial)
        if not divided and (out_of_memory or self._deaths[trial] >= self._config.retries):
            return False
        self._deaths[trial] += not out_of_memory
        run, seeds = self._runs[trial], self._seeds[trial]
        self._interrupted.append(Proposal(trial=trial, run=run, seeds=seeds))
        return True

    def _divide(self, trial: int) -> bool:
        """Divide a trial's batches unless that was done before; return whether it is done now."""
        run = with_less_memory(self._runs[trial])
        if trial in self._divided or run is None:
            return False
        self._divided.add(trial)
        self._runs[trial] = run
        self._store.set_config(trial, run)
        parts = run.train.accumulation
        reason = f"trained with each batch in {parts} parts, for want of memory"
        self._running[trial] = self._running[trial].replace(reason=reason)
        self._write(self._running[trial])
        return True

    def _next(self) -> Proposal | None:
        """Ask the strategy once; None when it has no more, or when this one is not trained."""
        unfinished = self._unfinished[0] if self._unfinished else None
        trial = self._strategy.ask(Turn(unfinished=unfinished, rejected=self._num_rejected))
        if trial is None:
            self.exhausted = True
            return None
        if unfinished is not None:
            self._unfinished.popleft()
        proposal = self._consider(trial)
        self._num_rejected = 0 if proposal is not None else self._num_rejected + 1
        return proposal

    def _consider(self, trial: Trial) -> Proposal | None:
        """Reject or replay a proposal, or begin it and return it."""
        try:
            run = decode(self._context.space, trial.params)
        except ConfigError:  # its values contradict one another: no model, so no cost to record
            self._store.tell(trial.number, state=OptunaState.FAIL)
            return None
        spent = self._context.cost_model(run.model)
        violation = spent.violation(self._config.budget)
        if BUDGET_CONSTRAINT not in trial.constraints:
            trial.set_constraint(BUDGET_CONSTRAINT, violation)
        record = Record(
            trial=trial.number,
            state=TrialState.RUNNING,
            metrics=dict(spent),
            config_id=digest(run),
            point=active(self._context.space, trial.params),
            epochs_planned=run.train.epochs,
            started_at=self._now(),
        )
        if violation > 0.0:
            reason = f"over budget: {spent.words(self._config.budget)}"
            self._finish(record.replace(state=TrialState.REFUSED, reason=reason))
            return None
        seeds = self._trial_seeds(trial.number, run)
        run = seeded(run, seeds[0])
        self._store.set_config(trial.number, run)
        return self._begin(record, run, seeds)

    def _trial_seeds(self, trial: int, run: RunConfig) -> tuple[int, ...]:
        config = self._config
        return trial_seeds(run.train.seed, config.seed, trial, config.repeats)

    def _begin(self, record: Record, run: RunConfig, seeds: tuple[int, ...]) -> Proposal | None:
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
        self._write(record)
        if original is not None:
            self._duplicates.setdefault(record.config_id, []).append(record)
            return None
        self._running[record.trial], self._runs[record.trial] = record, run
        self._seeds[record.trial] = seeds
        self.num_started += 1
        return Proposal(trial=record.trial, run=run, seeds=seeds)

    def _replay(self, record: Record, known: Record) -> None:
        full = known.state == TrialState.TRAINED
        self._store.copy_config(known.trial, record.trial)  # with the seed that was trained
        self._finish(
            known.replace(
                trial=record.trial,
                state=TrialState.REPLAYED if full else known.state,
                replay_of=known.trial,
                started_at=record.started_at,
            )
        )

    def _finish(self, record: Record) -> None:
        """Store a trial's last record, report it to the strategy, replay it for duplicates."""
        record = record.replace(finished_at=self._now())
        self._write(record)
        self._strategy.tell(record, self._finished.values())
        if record.replay_of is None and record.state != TrialState.REFUSED:
            self._finished[record.config_id] = record
            for duplicate in self._duplicates.pop(record.config_id, []):
                self._replay(duplicate, record)

    def _write(self, record: Record) -> None:
        self._store.set_record(record)
        self._on_record(record)

    def _now(self) -> str:
        """Return the time, at least the latest recorded one: the clock may have been set back."""
        self._latest = max(self._latest, datetime.now(UTC))
        return self._latest.isoformat(timespec="milliseconds")

    def _note_times(self, record: Record) -> None:
        """Remember the times of a record that an earlier driver stored."""
        for known in (record.started_at, record.finished_at):
            with suppress(ValueError, TypeError):  # none, or none that is a time
                self._latest = max(self._latest, datetime.fromisoformat(known))

    def _reopen(self, trial: FrozenTrial) -> None:
        """Take a stored trial into account: finished, interrupted, or never recorded."""
        if trial.state == OptunaState.WAITING:
            return
        stored = trial.user_attrs.get(RECORD_ATTRIBUTE)
        if stored is None:
            if trial.state == OptunaState.RUNNING:  # the driver died before it was recorded
                self._unfinished.append(trial.number)
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
            seeds = self._trial_seeds(trial.number, self._decoded(trial) or run)
            proposal = self._begin(record.replace(replay_of=None), run, seeds)
            if proposal is not None:
                self._interrupted.append(proposal)
            return
        if trial.state == OptunaState.RUNNING:  # the strategy has no result yet
            self._strategy.tell(record, self._finished.values())
        if is_new:
            self._finished[record.config_id] = record
            self.num_started += 1

    def _digest_of(self, trial: FrozenTrial) -> str | None:
        """Return the digest of a stored trial's config as this version computes it.

        The record has the digest of the version that wrote it. None if the point no longer
        decodes.
        """
        run = self._decoded(trial)
        return None if run is None else digest(run)

    def _decoded(self, trial: FrozenTrial) -> RunConfig | None:
        """Return the config of a stored trial's point, None if it no longer decodes."""
        try:
            return decode(self._context.space, trial.params)
        except (ConfigError, InvalidPointError):
            return None
