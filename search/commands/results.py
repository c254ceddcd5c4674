"""The results of a run: `castling status`, `front` and `report`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from castling.errors import one_line
from search.commands.console import console
from search.commands.options import MaxOption, MinOption, RunArgument, parse_bounds


if TYPE_CHECKING:
    import pandas as pd


def status(run: RunArgument) -> None:
    """Show the progress of a run, live or finished."""
    import reports

    trials = reports.load(run, refused=True)
    counts = trials.state.value_counts()
    console.print(", ".join(f"{counts[state]} {state}" for state in counts.index if counts[state]))
    for row in trials[trials.state == "failed"].itertuples():
        console.print(one_line(f"trial {row.trial} failed: {row.reason}"), soft_wrap=True)
    _print_front(trials)


def front(
    run: RunArgument,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to print it.")
    ] = "table",
    upper: MaxOption = None,
    lower: MinOption = None,
) -> None:
    """Print a run's front: the models that no other beats in every objective."""
    import reports

    trials = reports.load(run)
    if upper or lower:
        trials = trials.pareto.within(**parse_bounds(upper, lower))
    if output == "csv":
        sys.stdout.write(trials.pareto.front().to_csv(index=False))
    elif output == "json":
        text = trials.pareto.front().to_json(orient="records", indent=2, date_format="iso")
        sys.stdout.write(text + "\n")
    else:
        _print_front(trials)


def _print_front(trials: "pd.DataFrame") -> None:
    from reports.front import relative_hypervolume
    from search.commands.display import front_table

    volume = relative_hypervolume(trials)
    title = "front" if volume.value is None else f"front, {volume.words}"
    console.print(front_table(trials.pareto.front(), title, ["train_seconds"]))
    if volume.value is None:
        console.print(volume.words, soft_wrap=True)


def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default RUN/report.")] = None,
    upper: MaxOption = None,
    lower: MinOption = None,
) -> None:
    """Write a run's report: an HTML page, the front as PNG and CSV, all trials as CSV."""
    from reports.page import write_report

    for path in write_report(run, out, **parse_bounds(upper, lower)):
        console.print(str(path), soft_wrap=True, highlight=False)
