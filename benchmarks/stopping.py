"""Stoppers compared on recorded trainings: epochs spent, and how much of the front is left.

    python benchmarks/stopping.py record --out runs/stopping/digits [--recipe digits]
        [--trials 48] [--workers 1] [--set train.epochs=80] [--sampler pareto] [--seed 0]
    python benchmarks/stopping.py replay runs/stopping/digits [runs/...] [--workers 1 4]
        [--stoppers pareto asha] [--judge best]
    python benchmarks/stopping.py orders runs/stopping/digits [runs/...] [--orders 20]
    python benchmarks/stopping.py predict runs/stopping/digits [runs/...]
    python benchmarks/stopping.py forecast runs/stopping/digits [runs/...]
    python benchmarks/stopping.py live --out runs/stopping/live [--recipe digits] [--trials 24]
        [--stoppers none pareto] [--seeds 3] [--set train.epochs=16]

`record` is a search without a stopper; called again it goes on. `replay` gives its trials in the
same order to every stopper, with as many workers as said, each taking the next trial as soon as it
is free and as long for an epoch as was recorded; a trial that is stopped ends there. The object
that judges is the one that a search uses. Its table has

* epochs: those trained, as a part of those of full trainings;
* hypervolume: of the fully trained models, as a part of that of all models fully trained, with the
  run's own reference;
* small, middle, large: the same of the third of the models with the fewest MACs, the next and the
  last (reference: no accuracy, the MACs of the third's largest model); behind it how many of the
  front's models in that third were trained in full.

By default a stopper is shown the curve so far, of which it takes the best; `--judge last` shows it
the rung's own epoch alone, `--judge branch` the curve with the auxiliary branch.

`orders` replays the trials in as many random orders, with one worker: means and standard
deviations, and the smallest hypervolume.

`predict` ranks trials by what is measured after a part of the epochs and compares the ranks with
those of the final accuracy (Spearman).

`forecast` compares what the sampler expects of the trials that `pareto` stops in a replay with
what they came to, as roots of the mean square errors in accuracy: that of the mean of the fully
trained ones, that of the forecast, and the one that the forecast itself gives; and its mean.

`live` searches with every stopper, seeds 0, 1 and so on, one worker: `none` so many trials, the
others three times as many. It prints the relative hypervolume of the fully trained models after a
quarter, a half and so on of the epochs that `none` spends. Called again it goes on.
"""

import argparse
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

import reports
import search
from castling.training.metrics import EpochMetrics
from reports.curves import read_curve
from reports.manifest import Manifest
from reports.pareto import hypervolume
from reports.records import CURVES_FOLDER, MANIFEST_FILE, Objective, Record, TrialState
from reports.study import read_trials
from search.commands.options import parse_settings
from search.config import SearchConfig
from search.samplers.pareto.forecast import forecast
from search.stoppers import STOPPERS, StopperSpec
from search.stoppers.rungs import CostRanges, Rungs, cost_ranges


THIRDS = ("small", "middle", "large")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The full trainings of a run, in the order in which they were proposed."""

    name: str
    trials: pd.DataFrame
    records: Sequence[Record]
    curves: dict[int, list[EpochMetrics]]
    ranges: CostRanges

    @classmethod
    def load(cls, run: Path) -> "Recording":
        """Read a run folder."""
        manifest = Manifest.read(run)
        trials = reports.load(run)
        trials = trials[trials.state == TrialState.TRAINED].sort_values("trial")
        wanted = set(trials.trial)
        records = [
            Record.from_data(trial.user_attrs["record"], f"trial {trial.number}")
            for trial in read_trials(run, manifest)
            if trial.number in wanted
        ]
        config = SearchConfig.from_data(manifest.recipe)
        return cls(
            name=run.name,
            trials=trials,
            records=records,
            curves={trial: read_curve(run, trial) for trial in trials.trial},
            ranges=cost_ranges(config.context(config.build_space())),
        )

    @property
    def objectives(self) -> list[Objective]:
        """The run's objectives."""
        return [Objective.from_data(goal) for goal in self.trials.attrs["objectives"]]


def shown(curve: Sequence[EpochMetrics], judge: str) -> Sequence[EpochMetrics]:
    """Return what a stopper is shown of a curve so far."""
    if judge == "branch":
        return [
            epoch.replace(metrics={**epoch.metrics, "top1": epoch.metrics["top1_branch"]})
            for epoch in curve
        ]
    return curve[-1:] if judge == "last" else curve


def replay(
    recording: Recording, stopper: StopperSpec, workers: int, judge: str = "best"
) -> dict[int, int]:
    """Return how many epochs each trial was trained."""
    rungs = Rungs(stopper, recording.objectives, recording.ranges)
    waiting = [*reversed(recording.records)]
    events: list[tuple[float, int, int, Record]] = []  # time, trial, epoch
    trained: dict[int, int] = {}

    def begin(now: float) -> None:
        if waiting:
            advance(now, waiting.pop(), 0)

    def advance(now: float, record: Record, done: int) -> None:
        """Queue a trial's next rung, or its end."""
        stations = [*rungs.epochs(record.epochs_planned), record.epochs_planned]
        epoch = next(epoch for epoch in stations if epoch > done)
        curve = recording.curves[record.trial]
        seconds = [0.0, *(metrics.metrics["train_seconds"] for metrics in curve)]
        spent = seconds[epoch] - seconds[done]
        heapq.heappush(events, (now + spent, record.trial, epoch, record))

    for _ in range(workers):
        begin(0.0)
    while events:
        now, trial, epoch, record = heapq.heappop(events)
        ended = epoch == record.epochs_planned
        curve = recording.curves[trial][:epoch]
        if not ended and rungs.goes_on(record, shown(curve, judge)):
            advance(now, record, epoch)
        else:
            trained[trial] = epoch
            begin(now)
    return trained


def thirds(trials: pd.DataFrame) -> pd.Series:
    """Return each trial's third by MACs: 0, 1 or 2."""
    return (trials.macs.rank(method="first") - 1) * len(THIRDS) // len(trials)


def part(trials: pd.DataFrame, kept: pd.Series, reference: Sequence[float]) -> float:
    """Return the kept trials' hypervolume as a part of all trials'."""
    points = trials[["top1", "macs"]].to_numpy(dtype=float)
    whole = hypervolume(points, reference, ["max", "min"])
    return hypervolume(points[kept.to_numpy()], reference, ["max", "min"]) / whole


def report(recording: Recording, name: str, kept: pd.Series, epochs: float) -> str:
    """Return a row of the table."""
    trials = recording.trials
    worst = trials.attrs["reference"]
    cells = [f"{epochs:.1%}", f"{part(trials, kept, [worst['top1'], worst['macs']]):.2%}"]
    on_front = trials.trial.isin(trials.pareto.front().trial)
    for third in range(len(THIRDS)):
        mine = thirds(trials) == third
        corner = [0.0, 1.0 + float(trials.macs[mine].max())]
        among = f"{(on_front & mine & kept).sum()}/{(on_front & mine).sum()}"
        cells.append(f"{part(trials[mine], kept[mine], corner):.1%} {among}")
    return f"| {name} | " + " | ".join(cells) + " |"


def replay_all(args: argparse.Namespace) -> None:
    """Print a table for each run."""
    for folder in args.folders:
        recording = Recording.load(folder)
        trials = recording.trials
        planned = trials.epochs_planned.sum()
        print(f"\n{recording.name}: {len(trials)} trials, {planned} epochs\n")
        print(f"| stopper, workers | epochs | hypervolume | {' | '.join(THIRDS)} |")
        print("|---|---|---|---|---|---|")
        for name in args.stoppers:
            for number in args.workers if STOPPERS[name].fractions else args.workers[:1]:
                trained = replay(recording, STOPPERS[name], number, args.judge)
                epochs = trials.trial.map(trained)
                kept = epochs == trials.epochs_planned
                print(report(recording, f"`{name}`, {number}", kept, epochs.sum() / planned))
        first = math.floor(0.4 * len(trials))
        kept = pd.Series(np.arange(len(trials)) < first, index=trials.index)
        print(
            report(recording, f"`none`, the first {first} trials alone", kept, first / len(trials))
        )


def orders(args: argparse.Namespace) -> None:
    """Print a table for each run, over random orders of its trials."""
    for folder in args.folders:
        recording = Recording.load(folder)
        trials = recording.trials
        worst = trials.attrs["reference"]
        print(f"\n{recording.name}: {len(trials)} trials in {args.orders} random orders\n")
        print("| stopper | epochs | hypervolume | least |\n|---|---|---|---|")
        for name in (name for name in args.stoppers if STOPPERS[name].fractions):
            spent, volumes = [], []
            for seed in range(args.orders):
                mixed = Random(seed).sample(recording.records, len(trials))
                trained = replay(replace(recording, records=mixed), STOPPERS[name], 1)
                epochs = trials.trial.map(trained)
                kept = epochs == trials.epochs_planned
                spent.append(epochs.sum() / trials.epochs_planned.sum())
                volumes.append(part(trials, kept, [worst["top1"], worst["macs"]]))
            print_spread(f"`{name}`", spent, volumes)
        count = math.floor(0.4 * len(trials))
        volumes = []
        for seed in range(args.orders):
            first = [mark.trial for mark in Random(seed).sample(recording.records, len(trials))]
            kept = trials.trial.isin(first[:count])
            volumes.append(part(trials, kept, [worst["top1"], worst["macs"]]))
        print_spread(f"`none`, the first {count} trials alone", [count / len(trials)], volumes)


def print_spread(name: str, spent: Sequence[float], volumes: Sequence[float]) -> None:
    """Print a row of means and standard deviations."""
    means = f"{np.mean(spent):.1%} ± {np.std(spent):.1%} | {np.mean(volumes):.2%}"
    print(f"| {name} | {means} ± {np.std(volumes):.2%} | {min(volumes):.2%} |")


PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)


def predict(args: argparse.Namespace) -> None:
    """Print how well what is measured early ranks the trials by their final accuracy."""
    for folder in args.folders:
        recording = Recording.load(folder)
        curves = [recording.curves[trial] for trial in recording.trials.trial]
        final = [curve[-1].metrics["top1"] for curve in curves]
        print(f"\n{recording.name}: rank correlation with the final accuracy\n")
        print("| part of the epochs | castled | with branch | best so far | - loss | gap |")
        print("|---|---|---|---|---|---|")
        for share in PARTS:
            now = [curve[: math.ceil(share * len(curve))] for curve in curves]
            last = [curve[-1] for curve in now]
            measured = {
                "castled": [epoch.metrics["top1"] for epoch in last],
                "branch": [epoch.metrics["top1_branch"] for epoch in last],
                "best": [max(epoch.metrics["top1"] for epoch in curve) for curve in now],
                "loss": [-epoch.metrics["loss"] for epoch in last],
            }
            ranks = [f"{spearmanr(values, final)[0]:.3f}" for values in measured.values()]
            gap = np.subtract(measured["branch"], measured["castled"]).mean()
            print(f"| {share:.3f} | {' | '.join(ranks)} | {gap:+.2%} |")


def forecasts(args: argparse.Namespace) -> None:
    """Print how far forecasts of stopped trainings are from what they came to in the recording."""
    print("| run | stopped | of full ones | mean of the others | forecast | its mean | said |")
    print("|---|---|---|---|---|---|---|")
    for folder in args.folders:
        recording = Recording.load(folder)
        trained = replay(recording, STOPPERS["pareto"], 1)
        planned = {mark.trial: mark.epochs_planned for mark in recording.records}
        final = {trial: curve[-1].metrics["top1"] for trial, curve in recording.curves.items()}
        full = [trial for trial, epochs in trained.items() if epochs == planned[trial]]
        stopped = [trial for trial in trained if trial not in full]
        others = np.mean([final[trial] for trial in full])
        missed, means, said = [], [], []
        for trial in stopped:
            pairs = [(best(recording, one, trained[trial]), final[one]) for one in full]
            mean, std = forecast("top1", best(recording, trial, trained[trial]), pairs)
            missed.append(mean - final[trial])
            means.append(others - final[trial])
            said.append(std)
        print(
            f"| {recording.name} | {len(stopped)} | {len(full)} | {rms(means):.3f}"
            f" | {rms(missed):.3f} | {np.mean(missed):+.3f} | {rms(said):.3f} |"
        )


def best(recording: Recording, trial: int, epochs: int) -> float:
    """Return a trial's best accuracy of its first epochs."""
    return max(epoch.metrics["top1"] for epoch in recording.curves[trial][:epochs])


def rms(numbers: Sequence[float]) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(numbers))))


def record(args: argparse.Namespace) -> None:
    """Train in full, or go on with it."""
    settings = parse_settings(args.set)
    summary = search_on(
        args.out,
        args.recipe,
        trials=args.trials,
        workers=args.workers,
        fresh={"sampler": args.sampler, "seed": args.seed, "settings": settings},
    )
    print(f"{summary.trained} trials trained, {summary.failed} failed, {summary.seconds:.0f} s")


def search_on(
    out: Path, recipe: str, *, trials: int, workers: int, fresh: Mapping[str, Any]
) -> search.SearchSummary:
    """Search, or go on with a search; what is fresh is said at its beginning alone."""
    begun = (out / MANIFEST_FILE).exists() and (out / CURVES_FOLDER).exists()
    given = {} if begun else fresh
    name = None if begun else recipe
    return search.run(name, out=out, resume=begun, trials=trials, workers=workers, **given)


QUARTERS = (0.25, 0.5, 0.75, 1.0)


def live(args: argparse.Namespace) -> None:
    """Print what searches with each stopper find for the same epochs."""
    settings = parse_settings(args.set)
    print(
        "| stopper | " + " | ".join(f"{part:.0%}" for part in QUARTERS) + " | trained, stopped |"
    )
    print("|---|" + "---|" * (len(QUARTERS) + 1))
    for name in args.stoppers:
        rows, counts = [], []
        for seed in range(args.seeds):
            out = args.out / f"{name}-{seed}"
            trials = args.trials * (3 if STOPPERS[name].fractions else 1)
            fresh = {"stopper": name, "seed": seed, "settings": settings}
            search_on(out, args.recipe, trials=trials, workers=1, fresh=fresh)
            found = reports.load(out).sort_values("finished_at")
            spent = found.epochs.cumsum() / (args.trials * found.epochs_planned.iloc[0])
            rows.append([volume(found[spent <= part + 1e-9]) for part in QUARTERS])
            counts.append(found[spent <= 1.0 + 1e-9].state.value_counts())
        means, spreads = np.mean(rows, axis=0), np.std(rows, axis=0)
        cells = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(means, spreads, strict=True)]
        ended = [
            f"{np.mean([count.get(state, 0) for count in counts]):.0f}"
            for state in (TrialState.TRAINED, TrialState.STOPPED)
        ]
        print(f"| `{name}` | {' | '.join(cells)} | {', '.join(ended)} |")


def volume(trials: pd.DataFrame) -> float:
    """Return the relative hypervolume of the fully trained models."""
    return float(trials.pareto.hypervolume(relative=True)) if len(trials) else 0.0


def options() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording, replaying, mixing, predicting, forecasting, living = (
        commands.add_parser(name) for name in COMMANDS
    )
    for command, trials in ((recording, 48), (living, 24)):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--recipe", default="digits")
        command.add_argument("--trials", type=int, default=trials)
        command.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    recording.add_argument("--workers", type=int, default=1)
    recording.add_argument("--sampler", default="pareto")
    recording.add_argument("--seed", type=int, default=0)
    living.add_argument("--seeds", type=int, default=3)
    replaying.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    replaying.add_argument("--judge", default="best", choices=["best", "last", "branch"])
    mixing.add_argument("--orders", type=int, default=20)
    for command in (replaying, mixing, living):
        command.add_argument("--stoppers", nargs="+", default=[*STOPPERS], choices=[*STOPPERS])
    for command in (replaying, mixing, predicting, forecasting):
        command.add_argument("folders", type=Path, nargs="+")
    return parser


COMMANDS = {
    "record": record,
    "replay": replay_all,
    "orders": orders,
    "predict": predict,
    "forecast": forecasts,
    "live": live,
}


def main() -> None:
    """Run a command."""
    args = options().parse_args()
    COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
