"""What an executor is: it trains what a search's study proposes, and reports what came of it."""

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
    """What a search has to be done."""

    study: SearchStudy
    """Proposes trials and is told how each has ended."""
    rungs: Rungs
    """Says at which epochs a trial is judged, and whether it goes on."""
    folder: Path
    """The run folder, where workers write curves, checkpoints and weights."""
    trial_minutes: float | None = None
    """How long a trial may train before it fails as hanging; None waits for ever."""
    on_progress: Callable[[int, int, Mapping[str, float]], None] = _ignore
    """Called with a trial's number, its epoch and what that measured."""


class Executor(Protocol):
    """What trains the trials of a search, several at a time."""

    def run(self, work: Work, data: TrainingData) -> None:
        """Train what the study proposes until it proposes no more.

        Raises:
            Exception: whatever the study or the stopper raised, after the trials were ended.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; running trials stay resumable.
        """
