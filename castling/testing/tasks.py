"""The contract of tasks: their loss has gradients in the model, and their metrics have values."""

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from castling.config import ModelConfig, RunConfig
from castling.data.batches import Batch
from castling.data.dataset import DatasetInfo
from castling.tasks import TASKS, Task, TaskSpec


class TaskContract:
    """Tests of one task; a subclass names it in `task`."""

    task: ClassVar[str]
    info: ClassVar[DatasetInfo] = DatasetInfo(
        image_shape=(1, 8, 8), classes=tuple("abcd"), sizes={"train": 20}
    )
    """Of data that the task can be learnt from."""

    @pytest.fixture
    def name(self) -> str:
        """Return the task's name in the registry."""
        return self.task

    def test_describes_itself_in_one_line(self, name: str) -> None:
        """Each metric has a direction, and one of them is shown."""
        spec = TASKS[name]
        assert spec.summary
        assert "\n" not in spec.summary
        assert spec.primary in spec.metrics
        assert set(spec.metrics.values()) <= {"max", "min"}

    def test_its_loss_reaches_every_weight(self, name: str) -> None:
        """The terms are finite scalars."""
        spec = TASKS[name]
        task, model = self._built(spec)
        terms = task.loss(model, self._batch(spec), 0.5)
        assert all(term.shape == () and math.isfinite(term.item()) for term in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert all(weight.grad is not None for weight in model.parameters())

    def test_it_evaluates_every_metric(self, name: str) -> None:
        """In one pass over the batches, of any size, and equally every time."""
        spec = TASKS[name]
        task, model = self._built(spec)
        batches = [self._batch(spec), self._batch(spec, size=1)]
        with torch.inference_mode():
            found, again = (task.evaluate(model.eval(), iter(batches)) for _ in range(2))
        assert found == again
        assert sorted(found) == sorted(spec.measured(spec.num_outputs(self._info(spec))))
        assert spec.primary in found
        assert all(math.isfinite(value) for value in found.values())

    def _info(self, spec: TaskSpec) -> DatasetInfo:
        return replace(self.info, is_multilabel=spec.is_multilabel)

    def _built(self, spec: TaskSpec) -> tuple[Task, nn.Module]:
        """Return the task, and a model with its outputs."""
        num_outputs = spec.num_outputs(self._info(spec))
        run = RunConfig(model=ModelConfig(num_classes=num_outputs))
        return spec.build(run), linear(self.info, num_outputs)

    def _batch(self, spec: TaskSpec, size: int = 6) -> Batch:
        return batch(self._info(spec), size)


def batch(info: DatasetInfo, size: int = 6) -> Batch:
    """Return images of noise, of all classes in turn, with several labels where the info says."""
    images: Tensor = torch.randn(
        size, *info.image_shape, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(size) % len(info.classes)
    if info.is_multilabel:
        return Batch(images, torch.arange(len(info.classes)) <= labels[:, None])
    return Batch(images, labels)


def linear(info: DatasetInfo, num_outputs: int) -> nn.Module:
    """Return a linear model of images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(info.image_shape), num_outputs))
