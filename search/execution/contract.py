"""The contract of executors: they train the proposals of a study and report their results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from castling.training.data import TrainingData
from search.stoppers.rungs import Rungs
from search.study.study import SearchStudy


def _ignore(_: int, __: int, ___: Mapping[str, float]) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of a search for its executor."""

    study: SearchStudy
    """Proposes trials and records how each ends."""
    rungs: Rungs
    """Decides at which epochs a trial is judged, and whether it goes on."""
    folder: Path
    """The run folder, where workers write curves, checkpoints and weights."""
    trial_minutes: float | None = None
    """How long a trial may train before it fails as hanging; None waits for ever."""
    on_progress: Callable[[int, int, Mapping[str, float]], None] = _ignore
    """Called with a trial's number, its epoch and the metrics of the epoch."""


class Executor(Protocol):
    """Trains the trials of a search, several at a time."""

    def run(self, work: Work, data: TrainingData) -> None:
        """Train all proposals of the study.

        Raises:
            Exception: that of the study or the stopper, after the trials were ended.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; running trials stay resumable.
        """
