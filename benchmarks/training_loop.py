"""Does training wait for anything? Epochs of the training loop against its bare steps.

    python benchmarks/training_loop.py [--epochs 12]
    git worktree add /tmp/before f30a24e
    python benchmarks/training_loop.py --against /tmp/before [--rounds 31]

A bare step is what no training can do without: forward pass, loss, backward pass, clipped
gradients, AdamW, on one batch that is ready. An epoch of `castling.training.loop.train` is timed
by the images per second of its own log: rows shuffled, images augmented, rates and masks set. One
thread; after every epoch as many bare steps are timed, and the ratio is of the medians.

With `--against`, the trainer of another checkout and this one's train the same trials in turns, in
a process each: trials a minute, checkpoints and validation included, and the ratio of the medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from castling.config import MaskSchedule, RunConfig
from castling.data.memory import InMemoryBatches
from castling.model.build import build
from castling.training.data import TrainingData, load_data
from castling.training.loop import train
from castling.training.metrics import EpochMetrics
from space.presets import SPACES


ASKED = 0.95
LIMIT = 1.0
"""Of the gradients' norm, `train.clip_norm`."""
RATE = 1e-8
"""Of learning: too small to change what a step has to do, as masks do when weights move."""
MASKS = {
    "without": None,
    "with": MaskSchedule(shape="constant", start_multiple=2.0),
}
"""Of every layer, by what is said of the branch."""


@dataclass
class Race:
    """Epochs and bare steps in turns; both in images per second."""

    run: RunConfig
    data: TrainingData
    epochs: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Train, and take bare steps after every epoch."""
        self.model = build(self.run.model, seed=0).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, fused=True)
        device = torch.device("cpu")
        batches = InMemoryBatches.of(self.data.train, self.data.statistics, device)
        self.size = min(self.run.train.batch_size, len(batches))
        batch = batches.batch(slice(0, self.size))
        self.images, self.labels = batch.images, batch.labels
        train(self.run, self.data, on_epoch=self.after)

    def after(self, metrics: EpochMetrics) -> bool:
        """Note an epoch and time as many steps."""
        self.epochs.append(metrics.metrics["images_per_s"])
        count = len(self.data.train) // self.size
        started = time.perf_counter()
        for _ in range(count):
            self.step()
        self.steps.append(count * self.size / (time.perf_counter() - started))
        return True

    def step(self) -> None:
        """Take one bare step."""
        logits: Tensor = self.model(self.images)
        smoothing = self.run.train.label_smoothing
        loss = F.cross_entropy(logits, self.labels, label_smoothing=smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), LIMIT)
        assert loss.item() < torch.inf
        assert norm.item() < torch.inf
        self.optimizer.step()


AS_FAST = 0.98
"""Of the trials a minute before."""
TRIALS = {"digits": 12, "fashion-mnist": 3}
"""Epochs of a trial, by space."""
TRAINER = """
import sys, tempfile, time
from pathlib import Path
import torch
from castling.training.data import load_data
from castling.training.loop import train
from space.presets import SPACES
torch.set_num_threads(1)
run = SPACES[sys.argv[1]]().base
run = run.replace(
    train=run.train.replace(epochs=int(sys.argv[2])),
    data=run.data.replace(num_train=1024, num_validation=256),
)
data = load_data(run.data, run.model)
for line in sys.stdin:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(run, data, checkpoint=Path(folder) / "checkpoint.safetensors")
        print(time.perf_counter() - started, flush=True)
"""
"""Trains a trial for every line that it reads, and prints the seconds."""


def trials_a_minute(space: str, folders: list[Path], rounds: int) -> list[list[float]]:
    """Return the trials a minute of the trainer in each folder, trained in turns.

    The first round, which warms up, is left out; every second one runs in the other order.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINER, space, str(TRIALS[space])],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    rates: list[list[float]] = [[] for _ in folders]
    for number in range(rounds + 1):
        turns = list(enumerate(processes))
        for which, process in turns if number % 2 else reversed(turns):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("train\n")
            process.stdin.flush()
            seconds = float(process.stdout.readline())
            if number:
                rates[which].append(60.0 / seconds)
    for process in processes:
        process.communicate()
    return rates


def compare(before: Path, rounds: int) -> None:
    """Print the trials a minute of another checkout and of this one."""
    table = Table(box=None, title="trials a minute", title_justify="left")
    for column in ("space", "before", "now", "ratio (asked)"):
        table.add_column(column, justify="right")
    for space in TRIALS:
        folders = [before.resolve(), Path(__file__).resolve().parents[1]]
        old, new = map(statistics.median, trials_a_minute(space, folders, rounds))
        verdict = "" if new >= AS_FAST * old else " no"
        table.add_row(space, f"{old:.1f}", f"{new:.1f}", f"{new / old:.3f} ({AS_FAST}){verdict}")
    Console(width=120).print(table)


def main() -> None:
    """Race every model and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--against", type=Path, help="another checkout, to compare with")
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    if arguments.against is not None:
        compare(arguments.against, arguments.rounds)
        return
    torch.set_num_threads(1)
    table = Table(box=None, title="images per second", title_justify="left")
    for column in ("space", "branch", "bare steps", "training loop", "ratio (asked)"):
        table.add_column(column, justify="right")
    for name in ("digits", "fashion-mnist"):
        for branch, mask in MASKS.items():
            run = SPACES[name]().base
            blocks = tuple(block.replace(mask=mask) for block in run.model.blocks)
            run = run.replace(
                model=run.model.replace(blocks=blocks),
                train=run.train.replace(epochs=arguments.epochs, learning_rate=RATE),
                data=run.data.replace(num_train=1024, num_validation=256),
            )
            race = Race(run, load_data(run.data, run.model))
            race.start()
            steps, epochs = (statistics.median(rates) for rates in (race.steps, race.epochs))
            table.add_row(
                name,
                branch,
                f"{steps:.0f}",
                f"{epochs:.0f}",
                f"{epochs / steps:.2f} ({ASKED}){'' if epochs >= ASKED * steps else ' no'}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
