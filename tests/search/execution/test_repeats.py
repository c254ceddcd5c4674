import math

import pytest

from castling.metrics import Direction, metric_named
from search.execution.repeats import mean_and_spread, median_repeat


@pytest.mark.parametrize(
    ("values", "direction", "kept"),
    [
        ([0.5], "max", 0),
        ([0.1, 0.3, 0.2], "max", 2),
        ([0.1, 0.3, 0.2], "min", 2),
        ([0.4, 0.1, 0.3, 0.2], "max", 3),  # of the two in the middle the worse
        ([0.4, 0.1, 0.3, 0.2], "min", 2),
        ([math.nan, 0.9, 0.8], "max", 2),
        ([math.nan, 0.9, 0.8], "min", 1),
        ([math.nan, math.nan, 0.8], "max", 1),
    ],
)
def test_the_median_repeat(values: list[float], direction: Direction, kept: int) -> None:
    assert median_repeat(values, direction) == kept


def test_mean_and_spread() -> None:
    assert mean_and_spread([{"top1": 0.5}]) == {"top1": 0.5}
    found = mean_and_spread([{"top1": 0.2, "loss": 1.0}, {"top1": 0.6, "other": 1.0}])
    assert found == pytest.approx({"top1": 0.4, "top1_std": math.sqrt(0.08)})
    undefined = mean_and_spread([{"top1": 0.2}, {"top1": math.nan}])
    assert all(map(math.isnan, undefined.values()))


def test_a_spread_is_a_metric_of_the_same_unit() -> None:
    spread = metric_named("top1_std")
    assert (spread.unit, spread.direction, spread.curve_only) == ("fraction", "min", False)
    assert spread.text(0.0123) == "1.23%"
    assert spread.checked(0.5) == 0.5
    assert metric_named("images_per_s_std").unit == "images/s"
