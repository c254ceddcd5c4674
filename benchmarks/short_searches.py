"""Short searches on a small folder of images: is the whole budget seen, and every number varied?

    python benchmarks/short_searches.py [--only pareto] [--seeds 8] [--first-seed 0]
        [--trials 24] [--epochs 6]

Scikit-learn's digits, the first 203 of them twice, are written as 2,000 images in class folders
and searched as `castling search fashion-mnist --images FOLDER` would, one trial at a time and in
this process, with at most 1.5M MACs. Printed are, of every search and as means and standard
deviations over the seeds: the hypervolume (accuracy from 0, MACs from the budget, as a part of
their box), the best validation accuracy, how many of the last two thirds of the trials exceed half
and two thirds of the budget, and how many trials share the most frequent learning rate.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import torch
from PIL import Image
from sklearn.datasets import load_digits

from castling.config import RunConfig
from castling.data.folder import folder_settings
from castling.training.data import TrainingData, load_data
from castling.training.loop import train
from reports.pareto import hypervolume
from reports.records import TrialState
from search.config import SearchConfig
from search.study.storage import open_study
from search.study.study import SearchStudy
from search.study.trial import Outcome
from space.cost import cost


NUM_IMAGES = 2000
MAX_MACS = 1_500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What counts of a finished trial."""

    top1: float
    macs: int
    learning_rate: float


def write_digits(folder: Path) -> None:
    """Write 2,000 digits of 8 x 8 pixels as PNGs in class folders."""
    digits = load_digits()
    for number in range(NUM_IMAGES):
        row = number % len(digits.target)
        place = folder / str(digits.target[row])
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.round(digits.images[row] * (255.0 / 16.0)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number:04}.png")


def search(config: SearchConfig, judge: Callable[[RunConfig], float]) -> list[Tried]:
    """Return the trials of a search by the live search's code.

    Args:
        config: what is searched.
        judge: returns the accuracy of a training.
    """
    space = config.build_space()
    storage = optuna.storages.InMemoryStorage()
    study = SearchStudy(open_study(storage, config.objectives), storage, config.context(space))
    tried = []
    while (proposal := study.propose()) is not None:
        run = proposal.run
        top1 = judge(run)
        rate = run.train.learning_rate
        tried.append(Tried(top1=top1, macs=cost(run.model).macs, learning_rate=rate))
        outcome = Outcome(
            state=TrialState.TRAINED, metrics={"top1": top1}, epochs=run.train.epochs
        )
        study.finish(proposal.trial, outcome)
    return tried


def accuracy(data: TrainingData, run: RunConfig) -> float:
    """Return the validation accuracy of a training."""
    return train(run, data, device="cpu").metrics.metrics["top1"]


def summary(tried: list[Tried]) -> list[float]:
    """Return hypervolume, best accuracy, late proposals beyond 1/2 and 2/3, equal rates."""
    points = np.array([[trial.top1, trial.macs] for trial in tried], dtype=np.float64)
    volume = hypervolume(points, [0.0, float(MAX_MACS)], ["max", "min"]) / MAX_MACS
    late = [trial.macs / MAX_MACS for trial in tried[len(tried) // 3 :]]
    [(_, shared)] = Counter(trial.learning_rate for trial in tried).most_common(1)
    return [
        volume,
        max(trial.top1 for trial in tried),
        float(sum(share > 1 / 2 for share in late)),
        float(sum(share > 2 / 3 for share in late)),
        float(shared),
    ]


def main() -> None:
    """Parse the command line and search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", help="a sampler; by default pareto, tpe, random"
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    first = arguments.first_seed
    with tempfile.TemporaryDirectory() as name:
        write_digits(Path(name))
        settings = folder_settings(name) | {"train.epochs": arguments.epochs}
        for sampler in arguments.only or ["pareto", "tpe", "random"]:
            rows = []
            for seed in range(first, first + arguments.seeds):
                config = SearchConfig.from_data(
                    {
                        "space": "fashion-mnist",
                        "set": settings,
                        "budget": {"max_macs": MAX_MACS},
                        "trials": arguments.trials,
                        "sampler": sampler,
                        "seed": seed,
                    }
                )
                base = config.build_space().base
                judge = partial(accuracy, load_data(base.data, base.model))
                rows.append(summary(search(config, judge)))
                numbers = " ".join(f"{number:.3f}" for number in rows[-1])
                print(f"{sampler}, seed {seed}: {numbers}", flush=True)
            means, spreads = (
                np.mean(rows, axis=0),
                np.std(rows, axis=0, ddof=min(1, len(rows) - 1)),
            )
            cells = (f"{a:.3f} ± {b:.3f}" for a, b in zip(means, spreads, strict=True))
            print(" | ".join(["", sampler, *cells, ""]).strip(), flush=True)


if __name__ == "__main__":
    main()
