"""What every metric must do: describe itself, and return a number where it has a hook."""

import math
from typing import ClassVar

import pytest
import torch

from castling.config import ModelConfig
from castling.data.batches import Batch
from castling.metrics import METRICS
from castling.model.build import build
from castling.model.castle import castle


class MetricContract:
    """Tests of one metric; a subclass names it in `metric`."""

    metric: ClassVar[str]
    model: ClassVar[ModelConfig] = ModelConfig()
    """Of a model that the metric is defined for."""

    @pytest.fixture
    def name(self) -> str:
        """Return the metric's name in the registry."""
        return self.metric

    def test_describes_itself_in_one_line(self, name: str) -> None:
        """The table of metrics has a line for it."""
        metric = METRICS[name]
        assert metric.name == name
        assert metric.description
        assert "\n" not in metric.description

    def test_its_values_are_written_and_read(self, name: str) -> None:
        """In tables, and as a bound."""
        metric = METRICS[name]
        assert metric.text(math.nan) == "-"
        for value in (0.5, 1.0):
            written = 1 if metric.is_count else value
            assert metric.parse(metric.parse(written, "x"), "x") == written
            assert metric.amount(written)
            assert metric.amount(written, short=True)

    def test_a_cost_is_a_number_known_from_the_config(self, name: str) -> None:
        """The same every time."""
        metric = METRICS[name]
        if metric.cost is None:
            return
        value, again = (metric.checked(metric.cost(self.model)) for _ in range(2))
        assert not math.isnan(value)
        assert value == again

    def test_what_training_measures_is_a_number(self, name: str) -> None:
        """The same for the same model and images."""
        metric = METRICS[name]
        if metric.evaluate is None:
            return
        castled = castle(build(self.model, seed=0)).eval()
        generator = torch.Generator().manual_seed(0)
        shape = (self.model.channels, *self.model.image_size)
        batches = [
            Batch(
                torch.randn(size, *shape, generator=generator),
                torch.arange(size) % self.model.num_classes,
            )
            for size in (12, 1)
        ]
        with torch.inference_mode():
            value, again = (
                metric.checked(metric.evaluate(castled, iter(batches))) for _ in range(2)
            )
        assert not math.isnan(value)
        assert value == again
