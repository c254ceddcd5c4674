"""What a search tells while it runs, to whoever shows it."""

from collections.abc import Mapping, Sequence

from reports.records import Objective, Record
from space.budget import Budget


class Display:
    """What the driver tells while it searches; this one shows nothing of it."""

    def start(
        self,
        title: str,
        trials: int,
        records: Sequence[Record],
        objectives: Sequence[Objective],
        budget: Budget,
    ) -> None:
        """Begin: how many trials there will be, those that earlier drivers finished, the aims."""

    def record(self, record: Record) -> None:
        """Take note of a trial that began or ended, or of a refused proposal."""

    def progress(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take note of how far a running trial has come."""

    def stop(self) -> None:
        """End, however the search ended."""
