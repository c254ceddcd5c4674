"""Multi-label classification: any number of classes per image; BCE; mAP, micro and macro F1."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from castling.config import RunConfig
from castling.data.batches import Batch
from castling.data.dataset import DatasetInfo, Labels
from castling.errors import ConfigError
from castling.tasks.task import TASKS, Forward, Task, TaskSpec
from castling.tasks.weights import class_weights


class Multilabel(Task):
    """Tell for every class whether an image shows it; the model has an output per class."""

    def __init__(self, run: RunConfig) -> None:
        if run.train.sampler == "balanced":
            rule = "must be shuffle for the task multilabel, whose images have several classes"
            raise ConfigError("train.sampler", rule, run.train.sampler)
        self._config, self._num_classes = run.train, run.model.num_classes
        self._weights: Tensor | None = None

    def begin(self, labels: Labels) -> None:
        """Weigh the images with a class against those without, as `train.class_weights` says."""
        self._weights = class_weights(self._config, labels, self._num_classes)

    def loss(self, model: Forward, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the binary cross entropy with logits, the mean over images and classes.

        Labels (batch, class) of bools move towards one half by `train.label_smoothing`; those of
        floats, as Mixup and CutMix make them, are taken as they are.
        """
        logits = model(batch.images).float()
        target = batch.labels.float()
        if batch.labels.dtype == torch.bool:
            smoothing = self._config.label_smoothing
            target = target * (1.0 - smoothing) + smoothing / 2.0
        weights = None if self._weights is None else self._weights.to(logits.device)
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)
        return {"bce": loss}

    def evaluate(self, model: Forward, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `map`, the mean over classes of the average precision, and two F1.

        A class counts for `map` where an image shows it. The F1 are those of positive logits:
        `micro_f1` of all pairs of image and class, `macro_f1` the mean over classes.
        """
        from sklearn.metrics import average_precision_score, f1_score

        found = [(model(batch.images).float(), batch.labels) for batch in batches]
        logits, truth = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
        shown = truth.any(axis=0)
        scores = np.nan_to_num(logits)  # a diverged model is bad, not an error
        precision = (
            average_precision_score(truth[:, shown], scores[:, shown]) if shown.any() else 0.0
        )
        f1 = {
            f"{mean}_f1": float(f1_score(truth, scores > 0.0, average=mean, zero_division=0.0))
            for mean in ("micro", "macro")
        }
        return {"map": float(precision), **f1}


def _num_outputs(info: DatasetInfo) -> int:
    if not info.is_multilabel:
        raise ValueError("must have any number of classes per image, has one")
    return len(info.classes)


TASKS.add(
    "multilabel",
    TaskSpec(
        summary="all classes that an image shows; binary cross entropy",
        num_outputs=_num_outputs,
        metrics={"map": "max", "micro_f1": "max", "macro_f1": "max"},
        is_multilabel=True,
        primary="map",
        build=Multilabel,
    ),
)
