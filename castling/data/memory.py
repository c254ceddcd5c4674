"""Images held in memory: as arrays for the search, as tensors for a training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from castling.config import Preprocessing
from castling.data.arrays import Split
from castling.data.batches import EVALUATION_BATCH, Batch
from castling.data.statistics import Statistics
from castling.data.transforms import normalised


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
    def of(
        cls, split: Split, statistics: Statistics | Preprocessing, device: torch.device
    ) -> "InMemoryBatches":
        """Copy a split to a device; its images are normalised by mean and std of `statistics`."""
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
        return Batch(normalised(self.images[rows], self.mean, self.std), self.labels[rows])

    def shuffled(
        self,
        order: Tensor,
        sizes: Sequence[int],
        *,
        seed: int = 0,  # noqa: ARG002 - the images are as they are
        first_step: int = 0,
    ) -> Iterator[Batch]:
        """Yield the batches of a training epoch from a step on."""
        for rows in order.split(list(sizes))[first_step:]:
            yield self.batch((rows % len(self)).to(self.images.device))

    def in_order(self, size: int = EVALUATION_BATCH) -> Iterator[Batch]:
        """Yield all images in the order of the split."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))

    def close(self) -> None:
        """Do nothing: there are no workers."""
