from random import Random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from small_space import ONE_OF_ALL

from search.config import SearchConfig
from search.samplers.pareto.acquisition import DEAR, PATIENCE
from search.samplers.pareto.candidates import Trial, propose
from search.samplers.pareto.space_problem import SpaceProblem
from space.cost_model import CostModel
from space.decode import decode
from space.domain import FloatRange, Value
from space.point import Space
from space.presets import SPACES


BUDGETS = {"digits": "400k", "imagenet": "900M", "levit_128": "390M"}
SMALL = {
    "space": "digits",
    "dimensions": [{"target": "model.depth", "choices": [2, 3]}],
    "set": {**ONE_OF_ALL, "model.blocks.*.mask": None},
}


def problem_of(data: dict[str, object]) -> tuple[SpaceProblem, SearchConfig, Space]:
    config = SearchConfig.from_data(data)
    space = config.build_space()
    return config.context(space).problem, config, space


def budgeted(name: str) -> tuple[SpaceProblem, SearchConfig, Space]:
    return problem_of({"space": name, "budget": {"max_macs": BUDGETS[name]}})


@pytest.mark.parametrize("name", BUDGETS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5)
def test_every_candidate_is_a_point_within_the_budget(name: str, seed: int) -> None:
    problem, config, space = budgeted(name)
    rng = Random(seed)
    one, other = problem.sample(rng), problem.sample(rng)
    for values in (one, other, problem.mutate(one, rng), problem.cross(one, other, rng)):
        point = problem.point_of(values)
        space.check(point)
        costs = CostModel()(decode(space, point).model)
        assert costs.within(config.budget)
        assert problem.encode([values]).values[0, 1] == costs["macs"]


@pytest.mark.parametrize("name", SPACES)
def test_features_are_finite_and_grouped_without_a_gap(name: str) -> None:
    problem, _, _ = problem_of({"space": name})
    rng = Random(0)
    encoded = problem.encode([problem.sample(rng) for _ in range(5)])
    columns = [column for group in problem.goal.groups for column in group]
    assert columns == [*range(encoded.features.shape[1])]
    assert np.isfinite(encoded.features).all()
    assert np.isnan(encoded.values[:, 0]).all()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_what_a_config_ignores_is_no_feature(seed: int) -> None:
    problem, _, space = budgeted("digits")
    rng = Random(seed)
    point = problem.point_of(problem.sample(rng))
    other = space.sample(rng)
    used = eval(problem.key(problem.values_of(point)))
    idle = {**other, **used}
    one, same = (problem.encode([problem.values_of(p)]).features for p in (point, idle))
    assert np.array_equal(one, same)
    assert problem.identity(problem.values_of(point)) == problem.identity(problem.values_of(idle))


def test_small_spaces_are_enumerated_each_training_once() -> None:
    problem, _, _ = problem_of(SMALL)
    assert problem.everything is not None
    identities = [problem.identity(values) for values in problem.everything]
    assert len(set(identities)) == len(identities) == 8


def test_a_small_space_is_proposed_once_over_and_then_nothing() -> None:
    problem, _, _ = problem_of(SMALL)
    trials, rng = [], Random(0)
    while (point := propose(problem, trials, rng)) is not None:
        values = (-0.1 * len(trials), problem.encode([point]).values[0, 1])
        trials.append(Trial(point=point, values=values, identity=problem.identity(point)))
    assert len({trial.identity for trial in trials}) == len(trials) == 8


def test_large_spaces_are_not_enumerated() -> None:
    assert budgeted("digits")[0].everything is None


def test_proposals_find_what_is_accurate_sooner_than_draws() -> None:
    problem, _, space = budgeted("digits")

    def top1(values: tuple[object, ...]) -> float:
        blocks = decode(space, problem.point_of(values)).model.blocks
        return 0.3 + 0.6 * sum(block.operator == "softmax" for block in blocks) / len(blocks)

    rng, trials = Random(0), []
    for _ in range(18):
        point = propose(problem, trials, rng)
        assert point is not None
        values = (-top1(point), float(problem.encode([point]).values[0, 1]))
        trials.append(Trial(point=point, values=values, identity=problem.identity(point)))
    # most of them: the front's cheap end is worth a trial too
    assert np.median([trial.values[0] for trial in trials[12:]]) < -0.8


@pytest.fixture(scope="module")
def proposals() -> list[dict[str, Value]]:
    """16 points after 8 trials with one learning rate, the highest; width brings a little."""
    problem, _, space = budgeted("digits")
    rng, trials = Random(0), []
    for number in range(24):
        point = problem.sample(rng) if number < 8 else propose(problem, trials, rng)
        assert point is not None
        if number < 8:
            point = problem.values_of(problem.point_of(point) | {"train.learning_rate": 8e-3})
        width = decode(space, problem.point_of(point)).model.embed_width
        values = (-0.5 - 0.002 * width, float(problem.encode([point]).values[0, 1]))
        trials.append(Trial(point=point, values=values, identity=problem.identity(point)))
    return [problem.point_of(trial.point) for trial in trials[8:]]


def test_numbers_go_on_being_varied(proposals: list[dict[str, Value]]) -> None:
    domains = budgeted("digits")[2].domains
    different = {name: len({point[name] for point in proposals}) for name in domains}
    reals = [name for name, domain in domains.items() if isinstance(domain, FloatRange)]
    assert {name: different[name] for name in reals} == dict.fromkeys(reals, len(proposals))
    assert different["model.embed_width"] > 2


def test_all_of_the_budget_is_seen(proposals: list[dict[str, Value]]) -> None:
    problem, config, space = budgeted("digits")
    least = problem.encode([problem.values_of(config.context(space).feasible_point)]).values[0, 1]
    costs = problem.encode([problem.values_of(point) for point in proposals]).values[:, 1]
    is_dear = costs >= least + DEAR * ((config.budget.max_macs or 0) - least)
    longest = 2 * PATIENCE + 1
    for begin in range(len(proposals) - longest + 1):
        assert is_dear[begin : begin + longest].any(), is_dear
