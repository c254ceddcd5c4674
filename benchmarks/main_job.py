"""The main job, measured: `castling search digits` from nothing to an exported, recounted winner.

    python benchmarks/main_job.py [--seed 0] [--workers 2]

Prints one row per claim: what is asked, what was measured, whether it holds.
"""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import castling
import reports
import search
from reports.export import evaluate_folder, export
from search.config import read_recipe
from space.measure import measure_macs


def main() -> None:
    """Search, export, recount, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    budget = read_recipe("digits").budget.max_macs
    assert budget is not None
    with tempfile.TemporaryDirectory() as folder:
        run, best = Path(folder) / "run", Path(folder) / "best"
        summary = search.run("digits", out=run, seed=arguments.seed, workers=arguments.workers)
        trials = reports.load(run, refused=True)
        metrics = export(run, best)
        model = castling.load(best)
        height, width = model.config.image_size
        recounted = measure_macs(model, (model.config.channels, height, width))
        reproduced = evaluate_folder(best).is_reproduced
    trained = trials[trials.state == "trained"]
    over = int((trained.macs > budget).sum())
    front = len(trials.pareto.front())
    rows = [
        ("minutes of searching", "<= 10", f"{summary.seconds / 60:.1f}", summary.seconds <= 600),
        ("trials trained", ">= 32", str(len(trained)), len(trained) >= 32),
        ("trials trained over budget", "0", str(over), over == 0),
        ("points on the front", ">= 5", str(front), front >= 5),
        (
            "winner's test top1",
            ">= 97 %",
            f"{metrics.test['top1']:.2%}",
            metrics.test["top1"] >= 0.97,
        ),
        ("winner's MACs, recounted", f"<= {budget:,}", f"{recounted:,}", recounted <= budget),
        ("accuracy reproduced from files", "yes", "yes" if reproduced else "no", reproduced),
    ]
    table = Table(title=f"castling search digits, seed {arguments.seed}", box=None)
    for column in ("claim", "asked", "measured", "holds"):
        table.add_column(column)
    for claim, asked, measured, holds in rows:
        table.add_row(claim, asked, measured, "yes" if holds else "NO")
    Console().print(table)


if __name__ == "__main__":
    main()
