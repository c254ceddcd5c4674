"""Does training wait for anything? Epochs of the training loop against its bare steps.

    python benchmarks/training_loop.py [--epochs 12]

A bare step is what no training can do without: forward pass, loss, backward pass, clipped
gradients, AdamW, on one batch that is ready. An epoch of `castling.training.loop.train` is timed
by the images per second of its own log: rows shuffled, images augmented, rates and masks set. One
thread; after every epoch as many bare steps are timed, and the ratio is of the medians.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, field

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
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.run.train.clip_norm)
        assert loss.item() < torch.inf
        assert norm.item() < torch.inf
        self.optimizer.step()


def main() -> None:
    """Race every model and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
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
