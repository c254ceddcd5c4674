"""A task's metrics of a model on a split of images."""

from collections.abc import Iterable

import torch
from torch import nn

from castling.config import RunConfig
from castling.data.batches import Batch
from castling.tasks import TASKS, Task
from castling.training.data import Images, TrainingData, evaluation_batches


@torch.inference_mode()
def evaluate_batches(task: Task, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
    """Return the task's metrics of a model of any precision, which is left in evaluation mode."""
    model.eval()
    precision = next(model.parameters()).dtype
    return task.evaluate(lambda images: model(images.to(precision)), batches)


def evaluate(
    run: RunConfig, model: nn.Module, split: Images, data: TrainingData
) -> dict[str, float]:
    """Return the metrics of a run's task on a split.

    Args:
        run: names the task.
        model: castled, or with its auxiliary branches.
        split: the images to evaluate on.
        data: the data of the training, whose transform the images get.
    """
    device = next(model.parameters()).device
    batches = evaluation_batches(split, data.preprocessing, device, run)
    try:
        return evaluate_batches(TASKS[run.task].build(run), model, batches.in_order())
    finally:
        batches.close()
