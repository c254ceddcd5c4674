"""The events of a running search, for its display."""

from collections.abc import Mapping, Sequence

from reports.records import Objective, Record
from space.budget import Budget


class Display:
    """The events that a driver reports while it searches; this class ignores them."""

    def start(
        self,
        title: str,
        trials: int,
        records: Sequence[Record],
        objectives: Sequence[Objective],
        budget: Budget,
    ) -> None:
        """Begin a display: number of trials, records of earlier drivers, objectives."""

    def images(self, sentences: Sequence[str]) -> None:
        """Show what images were found, before the first trial begins."""

    def record(self, record: Record) -> None:
        """Show a trial that began or ended, or a rejected proposal."""

    def progress(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the progress of a running trial."""

    def stop(self) -> None:
        """End, however the search ended."""
