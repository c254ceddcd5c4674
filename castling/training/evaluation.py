"""A task's metrics of a model on a split of images."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from castling.config import RunConfig
from castling.data.batches import Batch
from castling.tasks import TASKS, Task
from castling.training.data import Images, TrainingData, evaluation_batches
from castling.training.execution import Execution
from castling.training.precision import arithmetic, autocast


@torch.inference_mode()
def evaluate_batches(
    task: Task,
    model: nn.Module,
    batches: Iterable[Batch],
    precision: str = "float32",
    execution: Execution | None = None,
) -> dict[str, float]:
    """Return the task's metrics of a model with weights of any type, left in evaluation mode.

    Args:
        task: measures.
        model: castled, or with its auxiliary branches.
        batches: the images to evaluate on.
        precision: of the forward passes, as `train.precision`; that of the weights otherwise.
        execution: of the processes that share the forward passes; None is this process alone.
    """
    model.eval()
    weight = next(model.parameters())

    def outputs(images: Tensor) -> Tensor:
        with autocast(precision, weight.device):
            return model(images.to(weight.dtype))

    with arithmetic(precision, weight.device):
        return task.evaluate(outputs if execution is None else execution.shared(outputs), batches)


def evaluate(
    run: RunConfig, model: nn.Module, split: Images, data: TrainingData
) -> dict[str, float]:
    """Return the metrics of a run's task on a split.

    Args:
        run: names the task, and the precision of the training, in which it is evaluated too.
        model: castled, or with its auxiliary branches.
        split: the images to evaluate on.
        data: the data of the training, whose transform the images get.
    """
    device = next(model.parameters()).device
    batches = evaluation_batches(split, data.preprocessing, device, run)
    try:
        task, precision = TASKS[run.task].build(run), run.train.precision
        return evaluate_batches(task, model, batches.in_order(), precision)
    finally:
        batches.close()
