from math import log

import pytest
from hypothesis import given, strategies as st
from scipy.special import expit, logit

from search.samplers.pareto.forecast import forecast


ACCURACY = st.floats(0.02, 0.98)
FRACTION = st.floats(0.0, 1.0)


@given(then=ACCURACY, gain=st.floats(0.0, 3.0), count=st.integers(1, 10), other=ACCURACY)
def test_an_accuracy_gains_what_others_have_gained(
    then: float, gain: float, count: int, other: float
) -> None:
    final = min(float(expit(logit(other) + gain)), 0.999)
    value, doubt = forecast("top1", then, [(other, final)] * count)
    assert logit(value) - logit(then) == pytest.approx(logit(final) - logit(other), abs=1e-6)
    assert 0.0 < doubt < 0.5


@given(then=st.floats(0.1, 10.0), ratio=st.floats(0.1, 10.0), other=st.floats(0.1, 10.0))
def test_other_metrics_change_by_the_ratio_of_the_others(
    then: float, ratio: float, other: float
) -> None:
    value, _ = forecast("loss", then, [(other, other * ratio)])
    assert log(value / then) == pytest.approx(log(ratio), abs=1e-6)


def test_more_and_more_alike_gains_leave_less_doubt() -> None:
    few = forecast("top1", 0.5, [(0.5, 0.8)])[1]
    many = forecast("top1", 0.5, [(0.5, 0.8)] * 10)[1]
    spread = forecast("top1", 0.5, [(0.5, 0.7), (0.5, 0.9)] * 5)[1]
    assert many < min(few, spread)


@given(
    then=st.floats(0.0, 1.0),
    pairs=st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1),
)
def test_any_accuracies_give_an_accuracy(then: float, pairs: list[tuple[float, float]]) -> None:
    value, doubt = forecast("top1", then, pairs)
    assert 0.0 <= value <= 1.0
    assert 0.0 <= doubt <= 0.5
