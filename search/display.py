"""What a running search shows: progress, the best front so far, time left."""

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reports.pareto import nondominated
from reports.records import Objective, Record, TrialState
from search.objectives import values_of
from space.budget import format_size


ENDED = (TrialState.TRAINED, TrialState.STOPPED, TrialState.FAILED)
"""How a trial ends that was given to training."""
SHOWN = ("top1", "macs", "params")
"""The metrics of every table of trials."""


def front_of(records: Sequence[Record], objectives: Sequence[Objective]) -> list[Record]:
    """Return the trained records that no other dominates in the objectives, by rising MACs."""
    trained = [record for record in records if record.state == TrialState.TRAINED]
    trained.sort(key=lambda record: record.trial)  # of equals reports keep the first proposed
    points = [values_of(record, objectives) for record in trained]
    kept = nondominated(points, [goal.direction for goal in objectives])
    front = [record for record, keep in zip(trained, kept, strict=True) if keep]
    return sorted(front, key=lambda record: record.macs)


class Display:
    """What the driver tells while it searches; this one shows nothing of it."""

    def start(
        self,
        title: str,
        trials: int,
        records: Sequence[Record],
        objectives: Sequence[Objective],
    ) -> None:
        """Begin: how many trials there will be, those that earlier drivers finished, the aims."""

    def record(self, record: Record) -> None:
        """Take note of a trial that began or ended, or of a refused proposal."""

    def progress(self, trial: int, epoch: int, top1: float) -> None:
        """Take note of how far a running trial has come."""

    def stop(self) -> None:
        """End, however the search ended."""


class TerminalDisplay(Display):
    """A live page on a terminal; elsewhere a line per finished trial."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._objectives: tuple[Objective, ...] = ()
        self._live: Live | None = None
        self._records: dict[int, Record] = {}
        self._epochs: dict[int, tuple[int, float]] = {}
        self._title, self._trials, self._done_before = "", 0, 0
        self._started = time.monotonic()

    def start(
        self,
        title: str,
        trials: int,
        records: Sequence[Record],
        objectives: Sequence[Objective],
    ) -> None:
        """Begin to show a search."""
        self._title, self._trials, self._objectives = title, trials, tuple(objectives)
        self._records = {record.trial: record for record in records}
        self._done_before = self._num_done()
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._page, console=self._console, refresh_per_second=4
            )
            self._live.start()
        else:
            self._console.print(title)

    def record(self, record: Record) -> None:
        """Show a trial's new state."""
        self._records[record.trial] = record
        if record.state != TrialState.RUNNING:
            self._epochs.pop(record.trial, None)
        if self._live is None and record.state in ENDED and record.replay_of is None:
            self._console.print(
                f"{self._num_done()}/{self._trials} {_line(record)}", highlight=False
            )

    def progress(self, trial: int, epoch: int, top1: float) -> None:
        """Show how far a trial has come."""
        self._epochs[trial] = (epoch, top1)

    def stop(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _num_done(self) -> int:
        return sum(r.state in ENDED and r.replay_of is None for r in self._records.values())

    def _page(self) -> RenderableType:
        done = self._num_done()
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=self._trials, completed=done, width=30),
            f"{done}/{self._trials} trials",
            f"ETA {self._eta(done)}",
        )
        front = front_of([*self._records.values()], self._objectives)
        return Group(bar, self._running(), front_table(front, self._objectives), self._counts())

    def _eta(self, done: int) -> str:
        """Return the time left, from what this driver's trials took so far."""
        finished = done - self._done_before
        if finished == 0:
            return "…"
        seconds = (time.monotonic() - self._started) / finished * (self._trials - done)
        return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"

    def _running(self) -> RenderableType:
        parts = []
        for record in self._records.values():
            if record.state == TrialState.RUNNING and record.replay_of is None:
                epoch, top1 = self._epochs.get(record.trial, (0, 0.0))
                accuracy = f" {top1:.1%}" if epoch else ""
                parts.append(f"#{record.trial} {epoch}/{record.epochs_planned}{accuracy}")
        return Text("training " + ("  ".join(parts) or "…"), style="dim")

    def _counts(self) -> RenderableType:
        counts = dict.fromkeys(TrialState, 0)
        for record in self._records.values():
            counts[record.state] += 1
        shown = [f"{number} {state}" for state, number in counts.items() if number]
        return Text(", ".join(shown), style="dim")


def front_table(front: Sequence[Record], objectives: Sequence[Objective] = ()) -> Table:
    """Return the front as a table, by rising MACs; accuracy and counts are always shown."""
    table = Table(title="front", title_justify="left", box=None, pad_edge=False)
    others = [goal.metric for goal in objectives if goal.metric not in SHOWN]
    for column in ("trial", "top1", "MACs", "params", *others):
        table.add_column(column, justify="right")
    for record in front:
        table.add_row(
            str(record.trial),
            f"{record.top1:.2%}",
            format_size(record.macs),
            format_size(record.params),
            *(f"{getattr(record, metric):.4g}" for metric in others),
        )
    return table


def _line(record: Record) -> str:
    if record.state == TrialState.FAILED:
        return f"trial {record.trial} failed: {record.reason}"
    if record.state == TrialState.STOPPED:
        return (
            f"trial {record.trial} stopped after {record.epochs} of {record.epochs_planned} "
            f"epochs: top1 {record.top1:.2%}, {format_size(record.macs)} MACs"
        )
    return (
        f"trial {record.trial}: top1 {record.top1:.2%}, {format_size(record.macs)} MACs, "
        f"{format_size(record.params)} params, {record.train_seconds:.1f} s"
    )
