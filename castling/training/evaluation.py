"""A task's metrics of a model on a split of images."""

from collections.abc import Iterable

import torch
from torch import nn

from castling.config import RunConfig
from castling.data.arrays import Split
from castling.data.batches import Batch
from castling.data.memory import InMemoryBatches
from castling.tasks import TASKS, Task
from castling.training.data import TrainingData


@torch.inference_mode()
def evaluate_batches(task: Task, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the task's metrics of a model of any precision, which is left in evaluation mode."""
    model.eval()
    precision = next(model.parameters()).dtype
    return task.evaluate(lambda images: model(images.to(precision)), batches)


def evaluate(
    run: RunConfig, model: nn.Module, split: Split, data: TrainingData
) -> dict[str, float]:
    """Return the metrics of a run's task on a split.

    Args:
        run: names the task.
        model: castled, or with its auxiliary branches.
        split: the images to evaluate on.
        data: the data of the training, whose statistics normalise the images.
    """
    device = next(model.parameters()).device
    batches = InMemoryBatches.of(split, data.statistics, device)
    return evaluate_batches(TASKS[run.task].build(run), model, batches.in_order())
