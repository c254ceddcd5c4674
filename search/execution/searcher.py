"""Our Ray Tune searcher: a thin bridge from Tune's questions to the study's answers."""

import json
import time
from collections.abc import Mapping
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from castling.errors import StorageError
from castling.training.metrics import EpochMetrics
from castling.training.teacher import located
from reports.records import TrialState
from search.execution.cluster import Resources
from search.execution.contract import Work
from search.execution.worker import CURVE, LOST, OUTCOME, SCORE, STORAGE_PROBLEM
from search.study.trial import Outcome


class StudySearcher(Searcher):
    """Gives Tune the study's proposals and the study Tune's outcomes.

    Tune swallows errors of its callbacks, so the first one is stored in `failure` and the search
    stops; the driver raises it.
    """

    def __init__(self, work: Work, resources: Resources) -> None:
        super().__init__()
        self._study, self._rungs, self._run = work.study, work.rungs, work.folder
        self._resources, self._on_progress = resources, work.on_progress
        self._trials: dict[str, int] = {}
        self._begun: dict[str, float] = {}
        minutes = work.trial_minutes
        self._limit = None if minutes is None else 60.0 * minutes
        self._stopped: dict[str, EpochMetrics] = {}
        self.failure: Exception | None = None
        self.interrupted = False
        """Set from outside to end the search; running trials stay resumable."""

    @property
    def is_stopping(self) -> bool:
        """Whether the search is to end at once."""
        return self.interrupted or self.failure is not None

    def suggest(self, trial_id: str) -> Any:
        """Return the next candidate as a trial's config, or FINISHED."""
        if self.is_stopping:
            return Searcher.FINISHED
        try:
            proposal = self._study.propose()
        except Exception as error:  # noqa: BLE001 - Tune would swallow it; the driver raises it
            self.failure = error
            return Searcher.FINISHED
        if proposal is None:  # while others train, one of them may have to be trained again
            return None if self._trials else Searcher.FINISHED
        self._trials[trial_id] = proposal.trial
        self._begun[trial_id] = time.monotonic()
        return {
            "trial": proposal.trial,
            "run": json.dumps(located(proposal.run).to_data()),
            "seeds": [*proposal.seeds],
            "objectives": [(goal.metric, goal.direction) for goal in self._study.objectives],
            "folder": str(self._run),
            "seconds": self._limit,
            "rungs": self._rungs.epochs(proposal.run.train.epochs),
            "processes": self._resources.processes,
            "threads": self._resources.threads,
            "gpus": self._resources.gpus,
        }

    def goes_on(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Return whether a trial is to be trained on after a report; at a rung it is judged."""
        if CURVE not in result or self.is_stopping:
            return True
        curve = [EpochMetrics.from_data(epoch) for epoch in json.loads(result[CURVE])]
        try:
            record = self._study.running[self._trials[trial_id]]
            going_on = self._rungs.goes_on(record, curve)
            self._study.note(record.trial, self._rungs.reached(record.trial))
        except Exception as error:  # noqa: BLE001 - Tune would swallow it; the driver raises it
            self.failure = error
            return True
        if not going_on:
            self._stopped[trial_id] = curve[-1]
        return going_on

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report the progress of a running trial."""
        if "epoch" in result:
            score = json.loads(result[SCORE])
            self._on_progress(self._trials[trial_id], result["epoch"], score)

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,  # noqa: FBT001, FBT002 - Tune's signature
    ) -> None:
        """Record the outcome; without one the trial was interrupted, or its worker died."""
        trial, last = self._trials.pop(trial_id, None), self._stopped.pop(trial_id, None)
        spent = time.monotonic() - self._begun.pop(trial_id, 0.0)
        if trial is None or self.failure is not None:
            return
        try:
            if last is None:
                self._complete(trial, result or {}, spent, error=error)
            else:
                self._study.finish(trial, Outcome.of(last, TrialState.STOPPED))
        except Exception as problem:  # noqa: BLE001 - Tune would swallow it; the driver raises it
            self.failure = problem

    def _complete(self, trial: int, result: dict[str, Any], spent: float, *, error: bool) -> None:
        if STORAGE_PROBLEM in result:
            raise StorageError(str(self._run), result[STORAGE_PROBLEM])
        stored = result.get(OUTCOME)
        if stored is not None:
            outcome = Outcome.from_data(json.loads(stored))
            if not (outcome.out_of_memory and self._study.again(trial, out_of_memory=True)):
                self._study.finish(trial, outcome)
        elif not self.interrupted:
            self._broke_down(trial, spent, error=error or LOST in result)

    def _broke_down(self, trial: int, spent: float, *, error: bool) -> None:
        """Train a trial without an outcome again, or record why it has none."""
        if self._limit is not None and spent >= self._limit:
            reason = f"took longer than trial_minutes, {self._limit / 60.0:g}"
        elif self._study.again(trial):
            return
        else:
            reason = "the worker died (out of memory, or killed)" if error else "no outcome"
        self._study.finish(trial, Outcome(state=TrialState.FAILED, reason=reason))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle no state: Tune stores its searcher, but the study is the truth."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the study is the truth, not Ray's experiment state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the study is the truth, not Ray's experiment state."""


class StopWhenTold(Stopper):
    """Ends the experiment once the searcher is interrupted or has failed."""

    def __init__(self, searcher: StudySearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether the search is to end."""
        return self._searcher.is_stopping
