"""The results of a run: `castling front` and `report`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from castling.errors import ConfigError
from search.commands.console import console
from search.commands.options import Bounds, MaxOption, MinOption, RunArgument, parse_bounds


if TYPE_CHECKING:
    import pandas as pd


WATCH_SECONDS = 15
"""Between two pages of `report --watch`."""


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
        print_front(trials)


def print_front(trials: "pd.DataFrame") -> None:
    """Print the front of trials and its hypervolume."""
    from reports.front import relative_hypervolume
    from search.commands.display import front_table

    volume = relative_hypervolume(trials)
    title = "front" if volume.value is None else f"front, {volume.words}"
    console.print(front_table(trials.pareto.front(), title, ["train_seconds"]))
    if volume.value is None:
        console.print(volume.words, soft_wrap=True)


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folder; several are compared.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default RUN/report, needed to compare.")
    ] = None,
    upper: MaxOption = None,
    lower: MinOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again every 15 s until the run ends.")
    ] = False,
) -> None:
    """Write a run's report: an HTML page, the front as PNG and CSV, all trials as CSV.

    With several runs, write a page that compares them to --out.
    """
    if len(runs) > 1:
        _compare(runs, out, upper, lower, watch=watch)
        return
    from reports.page import write_report
    from search.samplers.pareto.calibration import calibration

    bounds = parse_bounds(upper, lower)
    if watch:
        _watch(runs[0], out, bounds)
    for path in write_report(runs[0], out, **bounds, calibration=calibration(runs[0])):
        console.print(str(path), soft_wrap=True, highlight=False)


def _compare(
    runs: list[Path],
    out: Path | None,
    upper: list[str] | None,
    lower: list[str] | None,
    *,
    watch: bool,
) -> None:
    from reports.page import compare_runs

    if out is None:
        raise ConfigError("--out", "is required to compare runs", fix="add --out FOLDER")
    if upper or lower or watch:
        rule = "must be left out where runs are compared"
        raise ConfigError("--max, --min and --watch", rule)
    for path in compare_runs(runs, out):
        console.print(str(path), soft_wrap=True, highlight=False)


def _watch(run: Path, out: Path | None, bounds: Bounds) -> None:
    """Write the report again and again while the run is live; the open page reloads itself."""
    from reports.driver import is_live
    from reports.page import write_report

    while is_live(run):
        page = write_report(run, out, **bounds, refresh=WATCH_SECONDS)[0]
        console.print(f"{page}, again in {WATCH_SECONDS} s", soft_wrap=True, highlight=False)
        time.sleep(WATCH_SECONDS)
