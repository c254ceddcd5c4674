"""Images held in memory: as arrays for the search, as tensors for a training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from castling.data.arrays import Split
from castling.data.batches import Batch
from castling.data.statistics import Statistics


EVALUATION_BATCH = 250
"""Images per forward pass of an evaluation; fixed, so that accuracies are reproduced exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemoryBatches:
    """Batches of a split that is on the training's device as a whole."""

    images: Tensor
    """(image, channel, height, width), uint8."""
    labels: Tensor
    """(image), int64."""
    mean: Tensor
    """(channel, 1, 1)."""
    std: Tensor
    """(channel, 1, 1)."""

    @classmethod
    def of(cls, split: Split, statistics: Statistics, device: torch.device) -> "InMemoryBatches":
        """Copy a split to a device."""
        return cls(
            images=torch.tensor(split.images, device=device),
            labels=torch.tensor(split.labels, device=device),
            mean=torch.tensor(statistics.mean, device=device)[:, None, None],
            std=torch.tensor(statistics.std, device=device)[:, None, None],
        )

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor | slice) -> Batch:
        """Return the images at these rows, normalised, and their labels."""
        images = (self.images[rows].float() / 255.0 - self.mean) / self.std
        return Batch(images, self.labels[rows])

    def shuffled(
        self, order: Tensor, sizes: Sequence[int], first_step: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of a training epoch."""
        for rows in order.split(list(sizes))[first_step:]:
            yield self.batch(rows.to(self.images.device))

    def in_order(self, size: int = EVALUATION_BATCH) -> Iterator[Batch]:
        """Yield all images in the order of the split."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))
