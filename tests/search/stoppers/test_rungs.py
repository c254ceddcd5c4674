from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from reports.records import Objective
from search.config import SearchConfig
from search.stoppers import STOPPERS, Standing, StopperSpec
from search.stoppers.rules import CLOSER, DOUBLING, ParetoHalving
from search.stoppers.rungs import NUM_RANGES, CostRanges, Rungs, cost_ranges, rung_epochs
from search.testing.stoppers import TOP1_MACS, curve, record
from space.feasible import max_cost_point, min_cost_point, point_cost


def halving(objectives: tuple[Objective, ...] = TOP1_MACS) -> Rungs:
    spec = StopperSpec(
        summary="", goes_on=ParetoHalving(reduction=2.0, minimum=1), fractions=DOUBLING
    )
    return Rungs(spec, objectives, CostRanges.within(1.0, 1000.0, "macs"))


def seen_by(rungs: Rungs, rung: int = 0) -> dict[int, Standing]:
    return rungs._reached[rung]


@given(planned=st.integers(1, 400))
def test_rungs_rise_and_lie_within_the_training(planned: int) -> None:
    epochs = rung_epochs(CLOSER, planned)
    assert epochs == sorted(epochs)
    assert all(1 <= epoch <= planned for epoch in epochs)
    asked = halving().epochs(planned)
    assert asked == sorted(set(asked))
    assert all(epoch < planned for epoch in asked)
    if planned % 16 == 0:
        assert asked == [planned // 16, planned // 8, planned // 4, planned // 2]


def test_a_rung_at_a_whole_number_of_epochs_is_there_and_not_one_later() -> None:
    tenths = [tenth / 10 for tenth in range(1, 10)]
    assert rung_epochs(tenths, 10) == [*range(1, 10)]


def test_a_training_of_one_epoch_has_no_rung_and_goes_on() -> None:
    assert halving().epochs(1) == []
    assert halving().goes_on(record(0, planned=1), curve(0.1))


def test_between_rungs_everything_goes_on() -> None:
    rungs = halving()
    assert rungs.goes_on(record(0, macs=10), curve(0.9))
    assert not rungs.goes_on(record(1, macs=20), curve(0.5))
    assert rungs.goes_on(record(1, macs=20), curve(0.5, 0.5, 0.5))


def test_a_dominated_trial_is_stopped_unless_it_leads_its_range() -> None:
    rungs = halving()
    assert rungs.goes_on(record(0, macs=5), curve(0.9))
    assert not rungs.goes_on(record(1, macs=6), curve(0.8))
    assert rungs.goes_on(record(2, macs=500), curve(0.3))  # the first of its range
    assert not rungs.goes_on(record(3, macs=500), curve(0.2))
    assert rungs.goes_on(record(4, macs=500), curve(0.3))  # a tie


def test_trials_of_other_lengths_meet_at_the_same_part_of_their_epochs() -> None:
    rungs = halving()
    assert rungs.epochs(32) == [2, 4, 8, 16]
    assert rungs.goes_on(record(0, macs=5, planned=16), curve(0.9))
    assert rungs.goes_on(record(1, macs=6, planned=32), curve(0.5))
    assert not rungs.goes_on(record(1, macs=6, planned=32), curve(0.5, 0.8))


def test_accuracy_so_far_is_the_best_so_far() -> None:
    rungs = halving()
    rungs.note(record(0), curve(0.9, 0.1))
    assert seen_by(rungs, 1)[0].values == (-0.9, 50.0)


def test_any_objectives_are_judged_known_ones_exactly_others_as_measured() -> None:
    goals = (
        Objective(metric="params", direction="min"),
        Objective(metric="loss", direction="min"),
        Objective(metric="train_seconds", direction="min"),
        Objective(metric="latency_ms", direction="min"),
    )
    rungs = halving(goals)
    rungs.note(record(0, latency_ms=2.5), curve(0.5, 0.6))
    assert seen_by(rungs, 1)[0] == Standing(values=(500.0, 0.5, 2.0, 2.5), score=0.5, cost_range=1)


def test_costs_alone_stop_nothing() -> None:
    rungs = halving(TOP1_MACS[1:])
    assert all(rungs.goes_on(record(trial, macs=10 + trial), curve(0.1)) for trial in range(9))


def test_without_rungs_no_curve_is_read(tmp_path: Path) -> None:
    rungs = Rungs(STOPPERS["none"], TOP1_MACS, CostRanges(None))
    rungs.read_back(tmp_path / "nowhere", [record(0)])
    assert rungs.epochs(80) == []


def test_trials_without_a_curve_are_read_back_as_nothing(tmp_path: Path) -> None:
    rungs = halving()
    rungs.read_back(tmp_path, [record(0)])
    assert rungs._reached == [{}, {}, {}, {}]


@given(low=st.floats(1.0, 1e6), ratio=st.floats(1.1, 1e4), macs=st.integers(1, 10**10))
def test_ranges_have_equal_ratios_and_take_every_cost(low: float, ratio: float, macs: int) -> None:
    ranges = CostRanges.within(low, low * ratio, "macs")
    edges = [low, *ranges.edges, low * ratio]
    ratios = [after / before for before, after in pairwise(edges)]
    assert ratios == pytest.approx([ratio ** (1 / NUM_RANGES)] * NUM_RANGES)
    assert 0 <= ranges.of(record(0, macs=macs)) < NUM_RANGES


@pytest.mark.parametrize(
    ("low", "high"), [(5.0, 5.0), (5.0, 1.0), (float("nan"), 1.0), (0.0, 9.0)]
)
def test_costs_that_do_not_differ_are_one_range(low: float, high: float) -> None:
    assert CostRanges.within(low, high, "macs") == CostRanges(None)


def test_ranges_of_a_search_lie_between_the_cheapest_model_and_the_budget() -> None:
    config = SearchConfig.from_data({"space": "digits", "budget": {"max_macs": "1.2M"}})
    space = config.build_space()
    low = point_cost(space, min_cost_point(space, "macs")).macs
    assert cost_ranges(config.context(space)) == CostRanges.within(float(low), 1.2e6, "macs")
    high = point_cost(space, max_cost_point(space, "macs")).macs
    free = SearchConfig(space="digits")
    assert cost_ranges(free.context(space)) == CostRanges.within(float(low), float(high), "macs")


def test_ranges_are_those_of_the_first_cost_that_is_to_be_low() -> None:
    goals = [("top1", "max"), ("macs", "max"), ("params", "min"), ("macs", "min")][:3]
    objectives = [{"metric": metric, "direction": way} for metric, way in goals]
    config = SearchConfig.from_data({"space": "digits", "objectives": objectives})
    assert cost_ranges(config.context(config.build_space())).metric == "params"
    alone = SearchConfig.from_data({"space": "digits", "objectives": objectives[:1]})
    assert cost_ranges(alone.context(alone.build_space())) == CostRanges(None)


def test_a_stopper_of_ones_own_is_one_entry() -> None:
    spec = StopperSpec(summary="never", goes_on=lambda _, __: False, fractions=(0.5,))
    with STOPPERS.temporarily("never", spec):
        config = SearchConfig(space="digits", stopper="never")
        rungs = Rungs.of(config.context(config.build_space()))
        assert rungs.epochs(10) == [5]
        assert not rungs.goes_on(record(0, planned=2), curve(0.9))
