"""Trials per minute of `castling search digits`, of two checkouts back to back.

    python benchmarks/search_speed.py OTHER [--trials 12] [--rounds 1] [--workers 2]

OTHER is the folder of another checkout, such as `git worktree add ../first 24dbd97`, the first
version that searched. Both run in this Python with the same random points, epochs and workers, one
after the other in every round; the medians of the rounds are compared. Minutes are the command's
own, Ray's start and end in them; worker seconds are what its trials spent in training.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import reports


ASKED = 1.5
HERE = Path(__file__).resolve().parents[1]


def search(checkout: Path, trials: int, workers: int) -> tuple[float, float]:
    """Return the minutes of a search by a checkout, and the seconds its trials trained."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = f"--trials {trials} --workers {workers} --sampler random --seed 0"
        command = [sys.executable, "-m", "search", "search", "digits", "--out", str(run)]
        started = time.perf_counter()
        subprocess.run(
            [*command, *options.split(), "--set", "train.epochs=40"],
            cwd=checkout,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        minutes = (time.perf_counter() - started) / 60
        return minutes, float(reports.load(run).train_seconds.sum())


def main() -> None:
    """Search in turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    checkouts = {"other": arguments.other.resolve(), "this": HERE}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
    for _ in range(arguments.rounds):
        for name, checkout in checkouts.items():
            runs[name].append(search(checkout, arguments.trials, arguments.workers))
    table = Table(box=None, title="castling search digits", title_justify="left")
    for column in ("checkout", "trials per minute", "worker seconds per trial"):
        table.add_column(column, justify="right")
    speeds = {}
    for name, rounds in runs.items():
        speeds[name] = arguments.trials / statistics.median(minutes for minutes, _ in rounds)
        seconds = statistics.median(spent for _, spent in rounds) / arguments.trials
        table.add_row(name, f"{speeds[name]:.2f}", f"{seconds:.1f}")
    Console().print(table)
    Console().print(f"{speeds['this'] / speeds['other']:.2f} times as many (asked: {ASKED})")


if __name__ == "__main__":
    main()
