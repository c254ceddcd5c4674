"""Classification: cross entropy with label smoothing, top-1 accuracy."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from castling.config import RunConfig
from castling.data.batches import Batch
from castling.data.dataset import DatasetInfo
from castling.tasks.task import TASKS, Forward, Task, TaskSpec


class Classification(Task):
    """Tell the classes of a dataset apart; the model has an output per class."""

    def __init__(self, run: RunConfig) -> None:
        self._label_smoothing = run.train.label_smoothing

    def loss(self, model: Forward, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the cross entropy with the labels, smoothed by `train.label_smoothing`."""
        logits = model(batch.images).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self._label_smoothing)
        return {"cross_entropy": loss}

    def evaluate(self, model: Forward, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `top1`: the fraction of images whose highest logit is their class."""
        correct = total = 0
        for batch in batches:
            correct += int((model(batch.images).argmax(dim=1) == batch.labels).sum())
            total += len(batch.labels)
        return {"top1": correct / total}


def _num_outputs(info: DatasetInfo) -> int:
    if len(info.classes) < 2:
        raise ValueError(f"must have two classes or more, has {len(info.classes)}")
    return len(info.classes)


TASKS.add(
    "classification",
    TaskSpec(
        summary="the class of an image; cross entropy",
        num_outputs=_num_outputs,
        metrics={"top1": "max"},
        primary="top1",
        build=Classification,
    ),
)
