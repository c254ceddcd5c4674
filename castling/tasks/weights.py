"""Weights of classes in the loss, so that rare classes count as much as frequent ones."""

import numpy as np
import torch
from torch import Tensor

from castling.config import TrainConfig
from castling.data.dataset import Labels
from castling.errors import ConfigError


def class_weights(config: TrainConfig, labels: Labels, num_classes: int) -> Tensor | None:
    """Return the weight of each class (class), float32; None where all weigh the same.

    `balanced` is inversely proportional to how often a class occurs. For labels (image) it is
    scikit-learn's: images / (classes x images of the class). For labels (image, class) of bools
    it is the ratio of the images without a class to those with it. A class without images has the
    weight 1.

    Args:
        config: with `class_weights`.
        labels: of the training images.
        num_classes: of the model's head.

    Raises:
        ConfigError: when a list of weights has another length than the head.
    """
    chosen = config.class_weights
    if chosen == "none":
        return None
    if chosen != "balanced":
        if len(chosen) != num_classes:
            rule = f"must have a weight for each of the {num_classes} classes"
            raise ConfigError("train.class_weights", rule, f"{len(chosen)} weights")
        return torch.tensor(chosen, dtype=torch.float32)
    if labels.ndim == 2:
        having = labels.sum(axis=0)
        weights = (len(labels) - having) / np.maximum(having, 1)
        weights = np.where((having > 0) & (weights > 0.0), weights, 1.0)
    else:
        having = np.bincount(labels, minlength=num_classes)
        weights = np.where(having > 0, len(labels) / (num_classes * np.maximum(having, 1)), 1.0)
    return torch.tensor(weights, dtype=torch.float32)
