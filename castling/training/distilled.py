"""A task around a task: it adds a distillation loss to the terms of the task."""

import functools
import operator
from collections.abc import Iterable

from torch import Tensor

from castling.data.batches import Batch
from castling.data.dataset import Labels
from castling.tasks.task import Forward, Task
from castling.training.distill import Distillation


class Distilled(Task):
    """Another task with a distillation loss added; evaluation and metrics stay the same.

    Each term of the task's loss weighs 1 - `train.distill.weight`.
    """

    def __init__(self, task: Task, distillation: Distillation) -> None:
        self._task, self._distillation = task, distillation

    @property
    def extra(self) -> Distillation:
        """Return the distillation, for its token classifier."""
        return self._distillation

    def begin(self, labels: Labels) -> None:
        """Show the task the labels."""
        self._task.begin(labels)

    def loss(self, model: Forward, batch: Batch, progress: float) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the task's terms and the distillation loss, on the images that the task chose."""
        losses: list[Tensor] = []

        def forward(images: Tensor) -> Tensor:
            logits, loss = self._distillation(images)
            losses.append(loss)
            return logits

        weight = 1.0 - self._distillation.config.weight
        terms = self._task.loss(forward, batch, progress)
        weighted = {name: weight * term for name, term in terms.items()}
        return {**weighted, "distillation": functools.reduce(operator.add, losses)}

    def evaluate(self, model: Forward, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the task's metrics."""
        return self._task.evaluate(model, batches)
