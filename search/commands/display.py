"""The display of a running search on a terminal: progress, the best front so far, time left."""

import time
from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from castling.metrics import metric_named
from reports.front import front_of, front_text
from reports.records import Objective, Record, TrialState
from search.commands.console import errors
from search.display import Display
from space.budget import Budget


ENDED = (TrialState.TRAINED, TrialState.STOPPED, TrialState.FAILED)
"""The final states of a trial whose training began."""


class TerminalDisplay(Display):
    """A live page on a terminal; elsewhere a line per finished trial."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._objectives: tuple[Objective, ...] = ()
        self._budget = Budget()
        self._front: RenderableType | None = None  # drawn several times a second
        self._live: Live | None = None
        self._records: dict[int, Record] = {}
        self._epochs: dict[int, tuple[int, Mapping[str, float]]] = {}
        self._title, self._trials, self._done_before = "", 0, 0
        self._started = time.monotonic()

    def start(
        self,
        title: str,
        trials: int,
        records: Sequence[Record],
        objectives: Sequence[Objective],
        budget: Budget,
    ) -> None:
        """Begin to show a search."""
        self._title, self._trials = title, trials
        self._objectives, self._budget, self._front = tuple(objectives), budget, None
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

    def images(self, sentences: Sequence[str]) -> None:
        """Show what images were found, beside the results."""
        for sentence in sentences:
            errors.print(sentence)

    def record(self, record: Record) -> None:
        """Show a trial's new state."""
        self._records[record.trial] = record
        self._front = None
        if record.state != TrialState.RUNNING:
            self._epochs.pop(record.trial, None)
        if self._live is None and record.state in ENDED and record.replay_of is None:
            self._console.print(
                f"{self._num_done()}/{self._trials} {_line(record, self._objectives)}"
                + self._left(),
                highlight=False,
            )

    def progress(self, trial: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the progress of a trial."""
        self._epochs[trial] = (epoch, metrics)

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
        if self._front is None:
            records = [*self._records.values()]
            self._front = front_table(front_of(records, self._objectives, self._budget))
        return Group(bar, self._running(), self._front, self._counts())

    def _left(self) -> str:
        """Return the estimated time left in words; nothing at the end."""
        done = self._num_done()
        return f", {self._eta(done)} left" if done < self._trials else ""

    def _eta(self, done: int) -> str:
        """Return the estimated time left, from the durations of this driver's trials."""
        finished = done - self._done_before
        if finished == 0:
            return "…"
        seconds = (time.monotonic() - self._started) / finished * (self._trials - done)
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

    def _running(self) -> RenderableType:
        parts = []
        for record in self._records.values():
            if record.state == TrialState.RUNNING and record.replay_of is None:
                epoch, metrics = self._epochs.get(record.trial, (0, {}))
                text = "".join(f" {metric_named(name).short(v)}" for name, v in metrics.items())
                parts.append(f"#{record.trial} {epoch}/{record.epochs_planned}{text}")
        return Text("training " + ("  ".join(parts) or "…"), style="dim")

    def _counts(self) -> RenderableType:
        counts = dict.fromkeys(TrialState, 0)
        for record in self._records.values():
            counts[record.state] += 1
        shown = [f"{number} {state}" for state, number in counts.items() if number]
        return Text(", ".join(shown), style="dim")


def front_table(front: pd.DataFrame, title: str = "front", others: Sequence[str] = ()) -> Table:
    """Return a front as a table of the usual metrics, some others, objectives and bounds."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns = front_text(front, others)
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _line(record: Record, objectives: Sequence[Objective]) -> str:
    """Return a trial in words, with the first objective that training measures."""
    if record.state == TrialState.FAILED:
        return f"trial {record.trial} failed: {record.reason}"
    names = [goal.metric for goal in objectives if not metric_named(goal.metric).is_cost]
    name = names[0] if names else "top1"
    measured, macs, params, seconds = (
        metric_named(name).amount(record.value(name), short=True)
        for name in (name, "macs", "params", "train_seconds")
    )
    if record.state == TrialState.STOPPED:
        return (
            f"trial {record.trial} stopped after {record.epochs} of {record.epochs_planned} "
            f"epochs: {name} {measured}, {macs}"
        )
    return f"trial {record.trial}: {name} {measured}, {macs}, {params}, {seconds}"
