"""Batches of images as a training consumes them, whatever holds the images."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Batch(NamedTuple):
    """Images of one step and their labels, on the device of the training."""

    images: Tensor
    """(batch, channel, height, width), float32, normalised with the dataset's statistics."""
    labels: Tensor
    """(batch), int64: the class of each image; (batch, class), float32: soft labels of Mixup or
    CutMix; (batch, class), bool: the classes that each image of a multi-label dataset shows."""


class Batches(Protocol):
    """One split of a dataset, batch by batch."""

    def __len__(self) -> int:
        """Return the number of images."""

    def shuffled(self, order: Tensor, sizes: Sequence[int]) -> Iterator[Batch]:
        """Yield the batches of a training epoch.

        Args:
            order: rows (image), a permutation or, balanced by class, drawn with replacement.
            sizes: images of each batch; their sum is the number of images.
        """

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield all images in the order of the split, `size` per batch, the rest in the last."""
