"""Classification: one class per image; cross entropy or BCE; accuracies and macro F1."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy
from torch import Tensor

from castling.config import RunConfig
from castling.data.batches import Batch
from castling.data.dataset import DatasetInfo, Labels
from castling.tasks.task import TASKS, Forward, Task, TaskSpec
from castling.tasks.weights import class_weights


TOP = 5
"""The classes that `top5` looks at; it is measured where there are more."""


class Classification(Task):
    """Tell the classes of a dataset apart; the model has an output per class."""

    def __init__(self, run: RunConfig) -> None:
        self._config, self._num_classes = run.train, run.model.num_classes
        self._weights: Tensor | None = None

    def begin(self, labels: Labels) -> None:
        """Weigh the classes as `train.class_weights` says."""
        self._weights = class_weights(self._config, labels, self._num_classes)

    def loss(self, model: Forward, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """Return `train.loss` of the logits.

        Labels (batch), int64, are smoothed by `train.label_smoothing`. Labels (batch, class) of
        floats, as Mixup and CutMix make them, are taken as they are: the cross entropy is timm's
        SoftTargetCrossEntropy.
        """
        logits = model(batch.images).float()
        weights = None if self._weights is None else self._weights.to(logits.device)
        is_soft = batch.labels.ndim == 2
        if self._config.loss == "bce":
            smoothing = 0.0 if is_soft else self._config.label_smoothing
            bce = BinaryCrossEntropy(smoothing=smoothing, weight=weights)
            return {"bce": bce(logits, batch.labels)}
        smoothing = 0.0 if is_soft else self._config.label_smoothing
        loss = F.cross_entropy(logits, batch.labels, weights, label_smoothing=smoothing)
        return {"cross_entropy": loss}

    def evaluate(self, model: Forward, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the metrics of the highest logits, and `top5` where there are more classes.

        `top1` is the fraction of images whose highest logit is their class, `top5` that of images
        whose class is among the five highest. `balanced_accuracy` is the mean over classes of the
        fraction of their images that are recognised, `macro_f1` the mean of the classes' F1: over
        the classes that occur, as scikit-learn defines both.
        """
        counts = _Counts()
        for batch in batches:
            counts.add(model(batch.images), batch.labels)
        return counts.metrics()


class _Counts:
    """Counts of a classification, which are added up batch by batch on the device."""

    def __init__(self) -> None:
        self._total = 0
        self._correct: Tensor | int = 0
        self._among_top: Tensor | int | None = 0
        self._by_class: Tensor | int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (batch, class), labels (batch)."""
        num_classes = logits.shape[1]
        guess = logits.argmax(dim=1)
        is_correct = guess == labels
        self._total += len(labels)
        self._correct = self._correct + is_correct.sum()
        kinds = (labels[is_correct], labels, guess)
        counted = torch.stack([torch.bincount(kind, minlength=num_classes) for kind in kinds])
        self._by_class = self._by_class + counted
        if num_classes <= TOP or self._among_top is None:
            self._among_top = None
            return
        self._among_top = self._among_top + (logits.topk(TOP).indices == labels[:, None]).sum()

    def metrics(self) -> dict[str, float]:
        """Return the metrics of all batches."""
        assert isinstance(self._by_class, Tensor)  # a split has images
        found = {"top1": int(self._correct) / self._total}
        if self._among_top is not None:
            found["top5"] = int(self._among_top) / self._total
        right, having, guessed = self._by_class.cpu().double()
        occurs = having > 0
        found["balanced_accuracy"] = float((right[occurs] / having[occurs]).mean())
        either = having + guessed
        found["macro_f1"] = float((2.0 * right / either)[either > 0].mean())
        return found


def _num_outputs(info: DatasetInfo) -> int:
    if info.is_multilabel:
        raise ValueError("must have one class per image, has several")
    if len(info.classes) < 2:
        raise ValueError(f"must have two classes or more, has {len(info.classes)}")
    return len(info.classes)


TASKS.add(
    "classification",
    TaskSpec(
        summary="the class of an image; cross entropy",
        num_outputs=_num_outputs,
        metrics={"top1": "max", "top5": "max", "balanced_accuracy": "max", "macro_f1": "max"},
        least_outputs={"top5": TOP + 1},
        primary="top1",
        build=Classification,
    ),
)
