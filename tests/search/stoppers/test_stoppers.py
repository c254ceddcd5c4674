import math

import pytest
from hypothesis import assume, given, strategies as st

from reports.pareto import dominated_naive
from search.stoppers import STOPPERS, Standing
from search.stoppers.rules import (
    CLOSER,
    DOUBLING,
    AccuracyHalving,
    MedianRule,
    ParetoHalving,
    layers,
)
from search.testing import StopperContract
from search.testing.stoppers import MANY, STANDINGS, standing, survivors


@pytest.mark.parametrize("name", list(STOPPERS))
class TestEveryStopper(StopperContract):
    pass


PARETO = st.builds(
    ParetoHalving, reduction=st.sampled_from([1.5, 2.0, 4.0]), minimum=st.integers(0, 3)
)


def dominates(one: Standing, other: Standing) -> bool:
    no_worse = all(a <= b for a, b in zip(one.values, other.values, strict=True))
    return no_worse and one.values != other.values


@given(points=st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 2), max_size=20))
def test_layers_are_fronts_of_what_is_left(points: list[tuple[float, float]]) -> None:
    found = layers(points)
    for layer in range(max(found, default=-1) + 1):
        left = [point for point, at in zip(points, found, strict=True) if at >= layer]
        behind = dominated_naive(left, ["min", "min"])
        expected = [at > layer for at in found if at >= layer]
        assert list(behind) == expected


def test_a_point_with_nan_is_in_nobodys_way() -> None:
    assert layers([(math.nan, 0.0), (1.0, 1.0), (2.0, 2.0)]) == [0, 0, 1]


@given(rule=PARETO, mine=STANDINGS, others=MANY)
def test_what_no_other_dominates_goes_on(
    rule: ParetoHalving, mine: Standing, others: list[Standing]
) -> None:
    assume(not any(dominates(other, mine) for other in others))
    assert rule(mine, others)


@given(rule=PARETO, mine=STANDINGS, others=MANY)
def test_the_most_accurate_of_a_range_go_on_whatever_a_cheaper_model_has_reached(
    rule: ParetoHalving, mine: Standing, others: list[Standing]
) -> None:
    better = [o for o in others if o.cost_range == mine.cost_range and o.score < mine.score]
    assume(len(better) < rule.minimum)
    assert rule(mine, others)


@given(rule=PARETO, arrivals=MANY)
def test_of_every_range_at_least_the_minimum_goes_on(
    rule: ParetoHalving, arrivals: list[Standing]
) -> None:
    kept = survivors(rule, arrivals)
    for place in range(3):
        came = sum(mine.cost_range == place for mine in arrivals)
        assert sum(mine.cost_range == place for mine in kept) >= min(rule.minimum, came)


@given(rule=PARETO, arrivals=MANY)
def test_the_front_of_a_rung_is_never_lost(rule: ParetoHalving, arrivals: list[Standing]) -> None:
    kept = survivors(rule, arrivals)
    for mine in arrivals:
        if not any(dominates(other, mine) for other in arrivals):
            assert mine in kept


@given(rule=PARETO, mine=STANDINGS, others=MANY, gain=st.sampled_from([0.05, 0.2, 0.6]))
def test_to_be_more_accurate_never_hurts(
    rule: ParetoHalving, mine: Standing, others: list[Standing], gain: float
) -> None:
    assume(rule(mine, others))
    assert rule(standing(-mine.score + gain, mine.values[1]), others)


@given(rule=PARETO, mine=STANDINGS, others=MANY)
def test_beyond_front_and_ranges_no_more_than_the_reduction_allows_goes_on(
    rule: ParetoHalving, mine: Standing, others: list[Standing]
) -> None:
    above = standing(-mine.score + 0.05, mine.values[1])  # of the same range, and dominates
    others = [*others, *[above] * max(1, rule.minimum)]
    if rule(mine, others):
        better = [other for other in others if dominates(other, mine)]
        assert (len(better) + 1) * rule.reduction <= len(others) + 1


def test_a_small_model_is_stopped_by_accuracy_alone_but_not_by_domination() -> None:
    large = [standing(0.8 + 0.01 * step, 900.0) for step in range(9)]
    small = standing(0.5, 1.0)
    assert not AccuracyHalving(reduction=2.0)(small, large)
    assert not MedianRule(after=3)(small, large)
    assert ParetoHalving(reduction=2.0, minimum=1)(small, large)


def test_a_whole_layer_goes_on_where_it_fits() -> None:
    front, behind = standing(0.9, 1.0), standing(0.5, 2.0)
    worst = [standing(0.1, 900.0), standing(0.1, 950.0)]
    halving = ParetoHalving(reduction=2.0, minimum=0)
    assert halving(behind, [front, *worst])
    assert not halving(behind, [front, *worst[:1]])


@given(arrivals=MANY)
def test_halving_by_accuracy_keeps_the_best_and_about_the_half(arrivals: list[Standing]) -> None:
    rule = AccuracyHalving(reduction=2.0)
    kept = [
        mine for i, mine in enumerate(arrivals) if rule(mine, arrivals[:i] + arrivals[i + 1 :])
    ]
    assert not arrivals or min(arrivals, key=lambda mine: mine.score) in kept
    scores = [mine.score for mine in arrivals]
    if len(set(scores)) == len(scores):
        assert len(kept) == max(min(1, len(arrivals)), len(arrivals) // 2)


def test_rungs_are_dense_where_they_are_said_to_be() -> None:
    assert CLOSER[::2] == pytest.approx(DOUBLING)
