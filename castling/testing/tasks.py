"""What every task must do: a loss whose gradients reach the model, and values for its metrics."""

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from castling.config import RunConfig
from castling.data.batches import Batch
from castling.data.dataset import DatasetInfo
from castling.tasks import TASKS


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
        task, model = spec.build(RunConfig()), linear(self.info, spec.num_outputs(self.info))
        terms = task.loss(model, batch(self.info), 0.5)
        assert all(term.shape == () and math.isfinite(term.item()) for term in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert all(weight.grad is not None for weight in model.parameters())

    def test_it_evaluates_every_metric(self, name: str) -> None:
        """In one pass over the batches, of any size, and equally every time."""
        spec = TASKS[name]
        task, model = spec.build(RunConfig()), linear(self.info, spec.num_outputs(self.info))
        batches = [batch(self.info), batch(self.info, size=1)]
        with torch.inference_mode():
            found, again = (task.evaluate(model.eval(), iter(batches)) for _ in range(2))
        assert found == again
        assert found.keys() == spec.metrics.keys()
        assert all(math.isfinite(value) for value in found.values())


def batch(info: DatasetInfo, size: int = 6) -> Batch:
    """Return images of noise, of all classes in turn."""
    images: Tensor = torch.randn(
        size, *info.image_shape, generator=torch.Generator().manual_seed(0)
    )
    return Batch(images, torch.arange(size) % len(info.classes))


def linear(info: DatasetInfo, num_outputs: int) -> nn.Module:
    """Return a linear model of images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(info.image_shape), num_outputs))
