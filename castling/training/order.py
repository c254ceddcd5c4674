"""The order of the images of an epoch, drawn from the epoch's generator."""

import torch
from torch import Generator, Tensor

from castling.config import TrainConfig
from castling.data.batches import epoch_order
from castling.data.dataset import Labels


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
