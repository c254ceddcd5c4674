"""`castling status`: how far a run is, live or not."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from castling.errors import one_line
from search.commands.console import console, print_result
from search.commands.options import RunArgument
from search.commands.results import print_front


if TYPE_CHECKING:
    from reports.page.run import Run


WATCH_SECONDS = 2.0
"""Least time between two looks at a run; large studies are looked at less often."""
MOST_NAMED = 8
"""Trials in training, or of one reason to fail, that are named; the others are counted."""


def status(
    run: RunArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again until the search ends.")
    ] = False,
) -> None:
    """Show how far a run is, what trains now, what failed and why, and the front."""
    from reports.page.run import Run

    if watch:
        _watch(run)
    shown = Run.read(run)
    for line in status_lines(shown):
        print_result(line)
    print_front(shown.trials)


def _watch(run: Path) -> None:
    """Show the state of a run until its driver has ended."""
    from rich.live import Live
    from rich.text import Text

    from reports.driver import is_live
    from reports.page.run import Run

    with Live(console=console, auto_refresh=False, transient=True) as page:
        while is_live(run):
            begun = time.monotonic()
            lines = "\n".join(status_lines(Run.read(run)))
            page.update(Text(lines, no_wrap=False), refresh=console.is_terminal)
            time.sleep(max(WATCH_SECONDS, 5.0 * (time.monotonic() - begun)))


def status_lines(run: "Run") -> Iterator[str]:
    """Yield the state of a run in sentences: progress, counts, trainings, failures."""
    yield f"{run.folder}: {_state(run)}"
    counts = ", ".join(
        f"{number:,} {_word(state, is_live=run.is_live)}"
        for state, number in run.count.items()
        if number
    )
    yield counts or "no trial yet"
    if run.in_training:
        yield _trainings(run)
    for failure in run.failures:
        numbers = ", ".join(f"#{trial}" for trial in failure.trials[:MOST_NAMED])
        more = len(failure.trials) - MOST_NAMED
        others = f" and {more:,} more" if more > 0 else ""
        command = f"castling logs {run.folder} --trial {failure.trials[0]}"
        yield one_line(
            f"{len(failure.trials):,} failed: {failure.reason} ({numbers}{others}; {command})"
        )


def _word(state: str, *, is_live: bool) -> str:
    return "interrupted" if state == "running" and not is_live else state


def _state(run: "Run") -> str:
    """Return whether a run is live, and how far: 12 of 34 trials, about 6 min left."""
    from reports.page.words import duration

    ended = len(run.ended)
    done = f"{ended:,} of {run.planned:,} trials" if run.planned else f"{ended:,} trials"
    if run.is_live:
        left = run.seconds_left
        time_left = "" if left is None else f", about {duration(left)} left"
        driver = run.driver
        by = f" (process {driver.pid} on {one_line(driver.host, 80)})" if driver else ""
        return f"live, {done}{time_left}{by}"
    finished = run.driver is not None and run.driver.has_finished
    if finished or (run.planned and ended >= run.planned):
        return f"ended, {done}"
    resume = f"castling search --out {run.folder} --resume goes on"
    return f"interrupted, {done}; no search runs here: {resume}"


def _trainings(run: "Run") -> str:
    """Return the trials that are in training, or were, with their epochs."""
    from castling.metrics import METRICS

    parts = []
    for one in run.in_training[:MOST_NAMED]:
        value = one.metrics.get(run.quality)
        score = "" if value is None else f" {METRICS[run.quality].short(value)}"
        parts.append(f"#{one.trial} epoch {one.epoch}/{one.planned}{score}")
    more = len(run.in_training) - MOST_NAMED
    parts += [f"{more:,} more"] if more > 0 else []
    return ("training " if run.is_live else "not ended ") + ", ".join(parts)
