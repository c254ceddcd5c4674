"""Batches of images as a training consumes them, whatever holds the images."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor


EVALUATION_BATCH = 250
"""Images per forward pass of an evaluation; fixed, so that accuracies are reproduced exactly."""


class Batch(NamedTuple):
    """Images of one step and their labels, on the device of the training."""

    images: Tensor
    """(batch, channel, height, width), float32, normalised as the run's preprocessing says."""
    labels: Tensor
    """(batch), int64: the class of each image; or (batch, class): bool for several labels, float32
    for targets as they are, which mixup and CutMix make and have smoothed already."""


class Batches(Protocol):
    """One split of a dataset, batch by batch."""

    def __len__(self) -> int:
        """Return the number of images."""

    def shuffled(
        self, order: Tensor, sizes: Sequence[int], *, seed: int = 0, first_step: int = 0
    ) -> Iterator[Batch]:
        """Yield the batches of a training epoch from a step on; none before it is decoded.

        Args:
            order: of `epoch_order`, or a part of it: the remainder of a number by the number of
                images is the image; numbers are different, so that each seeds its own draws.
            sizes: images of each batch; their sum is the length of the order.
            seed: of the epoch. The same seed, order and sizes give the same batches, whatever
                the number of loader workers and wherever they begin.
            first_step: batches to leave out.
        """

    def in_order(self, size: int = EVALUATION_BATCH) -> Iterator[Batch]:
        """Yield all images in the order of the split, `size` per batch, the rest in the last."""

    def close(self) -> None:
        """End the loader workers; the batches can be used again, which starts new ones."""


def epoch_order(num_images: int, generator: Generator, repeated: int = 1) -> Tensor:
    """Return the order of an epoch's images, as `Batches.shuffled` takes it (image).

    With repeated augmentation (Hoffer et al., 2020) it is that of timm's RepeatAugSampler: each
    image of a permutation so many times in a row, up to the number of images. With N processes
    that take every N-th image, the copies of an image go to different processes.

    Args:
        num_images: of the split.
        generator: source of the permutation.
        repeated: times that each image stands in the order.
    """
    order = torch.randperm(num_images, generator=generator)
    if repeated == 1:
        return order
    copies = order.repeat_interleave(repeated)[:num_images]
    return copies + num_images * (torch.arange(num_images) % repeated)
