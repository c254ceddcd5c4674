"""Whether masks were alive at the end of a training, so that castling changed the model."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Self

import torch

from castling.config import RunConfig
from castling.model.build import build
from castling.model.castle import set_progress
from castling.operators.modules.auxiliary import branches
from castling.training.metrics import EpochMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEnd:
    """The end of a training; None for values that were not recorded."""

    epochs: int
    """Epochs trained."""
    branch: float | None = None
    """The task's primary metric on the validation images with the auxiliary branch."""
    mask_density: float | None = None
    """Mean fraction of the masks' entries that survived on the validation images."""

    @classmethod
    def of(cls, metrics: EpochMetrics, primary: str) -> Self:
        """Return how a training ended, by the metrics of its last epoch."""
        densities = metrics.mask_density
        return cls(
            epochs=metrics.epoch,
            branch=metrics.metrics.get(f"{primary}_branch") if densities else None,
            mask_density=fmean(densities) if densities else None,
        )

    @classmethod
    def of_record(cls, epochs: int, branch: float, mask_density: float) -> Self:
        """Return the end of a trial's training; values that its record lacks are None."""
        if math.isnan(mask_density):  # no layer had a mask
            return cls(epochs=epochs)
        measured = None if math.isnan(branch) else branch
        return cls(epochs=epochs, branch=measured, mask_density=mask_density)


def last_threshold(config: RunConfig, epochs: int) -> float | None:
    """Return the lowest threshold of a model's masks after so many epochs; None without masks.

    At 1 no entry of a softmax survives: the branch adds nothing, and castling changes no logit.
    """
    with torch.device("meta"):
        model = build(config.model)
    set_progress(model, min(max(epochs / config.train.epochs, 0.0), 1.0))
    return min((branch.threshold for branch in branches(model)), default=None)


def alive_masks(threshold: float | None, end: TrainingEnd, primary: str, value: float) -> str:
    """Return one sentence on what castling changed; nothing where the masks were empty.

    Args:
        threshold: as of `last_threshold`.
        end: how the training ended.
        primary: name of the task's primary metric.
        value: its value for the castled model on the validation images, 0 to 1.
    """
    if threshold is None or threshold >= 1.0:
        return ""
    survived = "" if end.mask_density is None else f", {end.mask_density:.2%} of entries survived"
    both = f"{primary} on the validation images is {value:.2%} castled"
    if end.branch is not None:
        both += f", was {end.branch:.2%} with the branch"
    return (
        f"the masks were alive when the training ended (threshold {threshold:.3g}{survived}), "
        f"so that dropping the branch changed the logits: {both}"
    )
