"""`castling compare`: hypervolumes of runs with one reference, and who wins at which budget."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.commands.console import print_result, print_table


if TYPE_CHECKING:
    import pandas as pd


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="At least two run folders.")
    ],
) -> None:
    """Compare runs: hypervolume with one reference, and whose model wins at which budget."""
    from reports.choice import compared
    from reports.page.compare import check_alike, comparison_words, names_of, volumes
    from reports.page.run import Run

    read = [Run.read(run) for run in runs]
    first, names = check_alike(read), names_of(read)
    rows = [
        (
            name,
            f"{len(run.trials.pareto.trained()):,}",
            f"{len(run.front):,}",
            "-" if volume is None else f"{volume:.4f}",
        )
        for name, run, volume in zip(names, read, volumes(read), strict=True)
    ]
    print_table(("run", "trained", "front", "relative hypervolume"), rows, words=("run",))
    table = compared(dict(zip(names, (run.front for run in read), strict=True)), first.goals)
    columns = (f"{first.cost} from", "to", "winner", *names)
    if len(table):
        stretches = _stretches(table, first.cost, first.quality, names)
        print_table(columns, stretches, words=("winner",))
    print_result(comparison_words(read))


def _stretches(
    table: "pd.DataFrame", cost: str, quality: str, names: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield the budgets in a row at which one run wins, and the best of each at their end."""
    from castling.metrics import metric_named

    changes = (table["winner"] != table["winner"].shift()).cumsum()
    for _, rows in table.groupby(changes, sort=True):
        ends = (metric_named(cost).short(float(rows[cost].iloc[place])) for place in (0, -1))
        best = (metric_named(quality).text(float(rows[name].iloc[-1])) for name in names)
        yield (*ends, str(rows["winner"].iloc[0]), *best)
