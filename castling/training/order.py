"""The order of the images of an epoch, drawn from the epoch's generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from castling.config import TrainConfig
from castling.data.batches import epoch_order
from castling.data.dataset import Labels
from castling.training.execution import Execution


def training_order(labels: Labels, config: TrainConfig, generator: Generator) -> Tensor:
    """Return the order of an epoch's images, as `Batches.shuffled` takes it (image).

    `shuffle` is `epoch_order`. `balanced` draws rows with replacement, each class with the same
    probability, as torch's WeightedRandomSampler does: images of a rare class come several times,
    each time with other random changes. The order follows from the generator, hence from seed and
    epoch.

    Args:
        labels: of the training images (image).
        config: with `sampler` and the repeated augmentation.
        generator: of the epoch.
    """
    repeated = config.augment.filled().repeated or 1
    num_images = len(labels)
    if config.sampler == "shuffle":
        return epoch_order(num_images, generator, repeated)
    classes = torch.as_tensor(labels)
    weights = 1.0 / classes.bincount().clamp(min=1).double()
    drawn = -(-num_images // repeated)
    rows = torch.multinomial(weights[classes], drawn, replacement=True, generator=generator)
    rows = rows.repeat_interleave(repeated)[:num_images]
    return rows + num_images * _occurrences(rows)


def _occurrences(rows: Tensor) -> Tensor:
    """Return how often each entry's row stands before it (image)."""
    ordered, places = rows.sort(stable=True)
    positions = torch.arange(len(rows))
    is_first = torch.ones(len(rows), dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    starts = torch.where(is_first, positions, 0).cummax(0).values
    return torch.empty_like(rows).scatter_(0, places, positions - starts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The images of an epoch that one process reads."""

    order: Tensor
    """As `Batches.shuffled` takes it (image)."""
    sizes: list[int]
    """Images of each step."""
    num_all: list[int | None]
    """Of each step: the images of all processes, where this one reads only its part; None where
    it reads those of all."""

    @classmethod
    def of(
        cls, order: Tensor, sizes: Sequence[int], execution: Execution, *, alone: bool
    ) -> "Parts":
        """Return the part of a process.

        Args:
            order: of all processes' images (image).
            sizes: of each step's batch.
            execution: of the process.
            alone: whether each image's random changes are drawn apart from those of the others,
                so that a process need not read the images of the others. Where a step has fewer
                images than processes, each reads all of them.
        """
        processes = execution.num_processes
        if processes == 1 or not alone:
            return cls(order=order, sizes=list(sizes), num_all=[None] * len(sizes))
        steps = [
            (rows, None) if len(rows) < processes else (execution.shard(rows), len(rows))
            for rows in order.split(list(sizes))
        ]
        return cls(
            order=torch.cat([rows for rows, _ in steps]),
            sizes=[len(rows) for rows, _ in steps],
            num_all=[num_all for _, num_all in steps],
        )
