import json
from dataclasses import replace

import pytest

from castling.training.metrics import EpochMetrics


METRICS = EpochMetrics(
    epoch=3,
    mask_density=(0.25, 0.0),
    metrics={
        "loss": 0.125,
        "top1": 0.5,
        "top1_branch": 0.625,
        "learning_rate": 1e-3,
        "images_per_s": 100.0,
        "train_seconds": 2.5,
    },
)


def test_a_line_of_json_gives_the_same_metrics() -> None:
    line = METRICS.to_line()
    assert "\n" not in line
    assert EpochMetrics.from_data(json.loads(line)) == METRICS
    assert EpochMetrics.from_data(json.loads(replace(METRICS, mask_density=()).to_line()))


def test_anything_else_is_refused() -> None:
    whole = METRICS.to_data()
    for wrong in (whole | {"accuracy": 1.0}, {"epoch": 1, "loss": 1.0}, {}):
        with pytest.raises((TypeError, KeyError)):
            EpochMetrics.from_data(wrong)
