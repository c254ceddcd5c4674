import json

import pytest
from epochs import epoch_metrics

from castling.errors import ConfigError
from castling.training.metrics import EpochMetrics


METRICS = epoch_metrics(3, mask_density=(0.25, 0.0), loss=0.125)
VERSION_1 = (
    '{"epoch": 3, "loss": 0.125, "top1": 0.5, "top1_branch": 0.6, "mask_density": [0.25, 0.0], '
    '"learning_rate": 0.001, "images_per_s": 100.0, "train_seconds": 3.0}'
)


def test_a_line_of_json_gives_the_same_metrics() -> None:
    line = METRICS.to_line()
    assert "\n" not in line
    assert EpochMetrics.from_data(json.loads(line)) == METRICS
    assert EpochMetrics.from_data(json.loads(METRICS.replace(mask_density=()).to_line()))


def test_a_line_of_version_1_gives_the_same_metrics() -> None:
    assert EpochMetrics.from_data(json.loads(VERSION_1)) == METRICS


def test_a_task_has_metrics_of_its_own() -> None:
    others = {name: value for name, value in METRICS.metrics.items() if "top1" not in name}
    metrics = METRICS.replace(metrics=others | {"mean_error": 2.0})
    assert EpochMetrics.from_data(json.loads(metrics.to_line())) == metrics


@pytest.mark.parametrize("whole", [METRICS.to_data(), json.loads(VERSION_1)])
def test_anything_else_is_refused(whole: dict[str, object]) -> None:
    for wrong in (
        whole | {"accuracy": 1.0},
        {key: whole[key] for key in whole if key != "epoch"},
        {key: whole[key] for key in whole if key not in ("metrics", "loss")},
        whole | {"metrics": {"loss": 1.0}},
        whole | {"metrics": {**METRICS.metrics, "top1": True}},
        {},
    ):
        with pytest.raises(ConfigError):
            EpochMetrics.from_data(wrong)
