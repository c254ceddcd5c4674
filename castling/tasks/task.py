"""The contract of a task: head, loss, evaluation and metrics; and the registry of all tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from castling.config import RunConfig
from castling.data.batches import Batch
from castling.data.dataset import DatasetInfo, Labels
from castling.registry import Registry


Forward = Callable[[Tensor], Tensor]
"""A model as a function: images (batch, channel, height, width) to outputs (batch, output)."""


class Task(ABC):
    """What a model learns to do. A checkpoint keeps no state of it, except that of `extra`."""

    @property
    def extra(self) -> nn.Module | None:
        """Return a module that is trained together with the model but not exported."""
        return None

    def begin(self, labels: Labels) -> None:  # noqa: B027 - most tasks need no labels
        """Take note of the labels of the training images, before the first step.

        Args:
            labels: (image), or (image, class) of a multi-label dataset.

        Raises:
            ConfigError: when a setting of the task does not fit them.
        """

    @abstractmethod
    def loss(self, model: Forward, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Return the terms of the loss; their sum is minimised.

        Args:
            model: in training mode, under the autocast of `train.precision`.
            batch: augmented images and their labels.
            progress: the part of the training that is done, 0 to 1.
        """

    @abstractmethod
    def evaluate(self, model: Forward, batches: Iterable[Batch]) -> dict[str, float]:
        """Return a value for each of the task's metrics that the model's outputs have.

        Args:
            model: in evaluation mode; gradients are off.
            batches: the images to evaluate on.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """The entry of a task in the registry: what it needs and measures, and how it is made."""

    summary: str
    """What the model learns, in half a sentence."""
    num_outputs: Callable[[DatasetInfo], int]
    """Outputs that the model's head must have for a dataset. Raises ValueError, whose message
    ends a sentence that begins with the dataset, where that lacks what the task needs."""
    metrics: Mapping[str, Literal["max", "min"]]
    """What `evaluate` measures, each with the direction in which it improves."""
    primary: str
    """The metric among them that progress displays show."""
    least_outputs: Mapping[str, int] = field(default_factory=dict)
    """The fewest outputs with which a metric is measured; those that are left out always are."""
    is_multilabel: bool = False
    """Whether it needs labels (image, class) of bools."""
    build: Callable[[RunConfig], Task]
    """Makes the task of a training, whose `train` has the settings of the loss."""

    def measured(self, num_outputs: int) -> list[str]:
        """Return the metrics of a model with so many outputs."""
        return [name for name in self.metrics if num_outputs >= self.least_outputs.get(name, 0)]


TASKS: Registry[TaskSpec] = Registry("task", entry_points="castling.tasks")
"""Tasks by name; packages add theirs through the entry point group `castling.tasks`."""
