"""The order of the images of an epoch, drawn from the epoch's generator."""

import torch
from torch import Generator, Tensor

from castling.config import TrainConfig
from castling.data.dataset import Labels


def epoch_order(labels: Labels, config: TrainConfig, generator: Generator) -> Tensor:
    """Return the rows (image) of an epoch's images, int64, as many as there are images.

    `shuffle` is a permutation. `balanced` draws rows with replacement, each class with the same
    probability (as torch's WeightedRandomSampler): a rare class's images come several times. The
    order follows from the generator, hence from the seed and the epoch.

    Args:
        labels: of the training images (image).
        config: with `sampler`.
        generator: of the epoch.
    """
    if config.sampler == "shuffle":
        return torch.randperm(len(labels), generator=generator)
    classes = torch.as_tensor(labels)
    weights = 1.0 / classes.bincount().clamp(min=1).double()
    return torch.multinomial(weights[classes], len(classes), replacement=True, generator=generator)
