import moocore
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from reports.pareto import Points, hypervolume
from search.samplers.pareto.improvement import Forecast, expected_improvement


def scene(seed: int, objectives: int, learnt: int) -> tuple[Forecast, Points, Points]:
    """Five candidates around a front of up to eight points; values repeat, some are too bad."""
    rng = np.random.default_rng(seed)
    front = rng.integers(0, 12, (rng.integers(0, 9), objectives)) / 10.0
    mean = rng.integers(0, 12, (5, objectives)) / 10.0
    std = np.zeros((5, objectives))
    std[:, rng.permutation(objectives)[:learnt]] = rng.uniform(0.05, 0.5, (5, 1))
    return Forecast(mean=mean, std=std), front, np.ones(objectives)


def volume(points: Points) -> float:
    return hypervolume(points, [1.0] * points.shape[1], ["min"] * points.shape[1])


@given(seed=st.integers(0, 2**32), objectives=st.integers(1, 4))
def test_known_candidates_gain_exactly_what_they_add(seed: int, objectives: int) -> None:
    forecast, front, reference = scene(seed, objectives, learnt=0)
    gains = expected_improvement(forecast, front, reference)
    for candidate, gain in zip(forecast.mean, gains, strict=True):
        added = volume(np.vstack([front, candidate])) - volume(front)
        assert gain == pytest.approx(added, abs=1e-12)


@given(seed=st.integers(0, 2**32), objectives=st.integers(1, 4), learnt=st.integers(1, 3))
@settings(max_examples=8)
def test_expected_gains_are_the_mean_over_draws(seed: int, objectives: int, learnt: int) -> None:
    forecast, front, reference = scene(seed, objectives, min(learnt, objectives))
    gains = expected_improvement(forecast, front, reference)
    draws = np.random.default_rng(seed + 1).normal(size=(2000, objectives))
    before = volume(front)
    for mean, std, gain in zip(forecast.mean[:2], forecast.std[:2], gains[:2], strict=True):
        added = [
            float(moocore.hypervolume(np.vstack([front, mean + std * draw]), ref=reference))
            - before
            for draw in draws
        ]
        error = np.std(added) / np.sqrt(len(draws))
        assert gain == pytest.approx(np.mean(added), abs=5.0 * error + 1e-3)


@given(seed=st.integers(0, 2**32), objectives=st.integers(2, 4))
def test_the_order_of_objectives_does_not_matter(seed: int, objectives: int) -> None:
    forecast, front, reference = scene(seed, objectives, learnt=1)
    order = np.random.default_rng(seed).permutation(objectives)
    turned = Forecast(mean=forecast.mean[:, order], std=forecast.std[:, order])
    assert expected_improvement(turned, front[:, order], reference) == pytest.approx(
        expected_improvement(forecast, front, reference), abs=1e-12
    )


@given(seed=st.integers(0, 2**32), objectives=st.integers(1, 3))
def test_more_is_expected_of_better_means_and_never_less_than_nothing(
    seed: int, objectives: int
) -> None:
    forecast, front, reference = scene(seed, objectives, learnt=1)
    better = Forecast(mean=forecast.mean - 0.1, std=forecast.std)
    gains = expected_improvement(forecast, front, reference)
    assert (gains >= 0.0).all()
    assert (expected_improvement(better, front, reference) >= gains - 1e-12).all()


@given(seed=st.integers(0, 2**32), objectives=st.integers(1, 3))
def test_dominated_points_of_the_front_change_nothing(seed: int, objectives: int) -> None:
    forecast, front, reference = scene(seed, objectives, learnt=1)
    padded = np.vstack([front, front + 0.05, np.full((1, objectives), 2.0)])
    assert expected_improvement(forecast, padded, reference) == pytest.approx(
        expected_improvement(forecast, front, reference), abs=1e-12
    )


def test_one_objective_is_the_textbook_expected_improvement() -> None:
    forecast = Forecast(mean=np.array([[0.4]]), std=np.array([[0.2]]))
    [gain] = expected_improvement(forecast, np.array([[0.5]]), np.array([1.0]))
    assert gain == pytest.approx(0.1 * 0.6914625 + 0.2 * 0.3520653, abs=1e-6)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_points_that_others_dominate_change_nothing(seed: int) -> None:
    forecast, front, reference = scene(seed, objectives=3, learnt=1)
    worse = np.minimum(front + np.random.default_rng(seed).integers(0, 3, front.shape) / 10.0, 1.0)
    assert expected_improvement(forecast, np.vstack([worse, front]), reference) == pytest.approx(
        expected_improvement(forecast, front, reference), abs=1e-12
    )
