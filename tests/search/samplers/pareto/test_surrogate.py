import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel

from search.samplers.pareto.surrogate import GroupedRBF, Surrogate


GROUPS = ((0, 1), (2,), (3, 4, 5))


def draws(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 6))


def test_covariance_is_the_exponential_of_the_weighted_distance() -> None:
    x, weights = draws(0, 4), np.array([0.5, 2.0, 0.1])
    kernel = GroupedRBF(weights, GROUPS)
    for row in range(4):
        for other in range(4):
            gap = (x[row] - x[other]) ** 2
            distance = sum(w * gap[list(g)].sum() for w, g in zip(weights, GROUPS, strict=True))
            assert kernel(x)[row, other] == pytest.approx(np.exp(-0.5 * distance))


def test_over_one_hot_columns_it_is_a_hamming_kernel() -> None:
    x = np.eye(3)[[[0, 1], [0, 2], [2, 0]]].reshape(3, 6) / np.sqrt(2.0)
    kernel = GroupedRBF(np.array([1.0, 1.0]), ((0, 1, 2), (3, 4, 5)))
    differing = np.array([[0, 1, 2], [1, 0, 2], [2, 2, 0]])
    assert kernel(x) == pytest.approx(np.exp(-0.5 * differing))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_gradient_is_that_of_finite_differences(seed: int) -> None:
    x = draws(seed, 5)
    log_weights = np.random.default_rng(seed).normal(size=3)
    _, gradient = GroupedRBF(np.exp(log_weights), GROUPS)(x, eval_gradient=True)
    for group in range(3):
        step = np.zeros(3)
        step[group] = 1e-5
        ahead = GroupedRBF(np.exp(log_weights + step), GROUPS)(x)
        behind = GroupedRBF(np.exp(log_weights - step), GROUPS)(x)
        assert gradient[:, :, group] == pytest.approx((ahead - behind) / 2e-5, abs=1e-7)


def test_it_combines_with_the_kernels_of_sklearn() -> None:
    kernel = ConstantKernel(2.0) * GroupedRBF(np.ones(3), GROUPS) + WhiteKernel(0.1)
    moved = kernel.clone_with_theta(kernel.theta + 0.5)
    assert moved.theta == pytest.approx(kernel.theta + 0.5)
    assert kernel.diag(draws(0, 2)) == pytest.approx([2.1, 2.1])


def test_it_learns_what_matters_and_how_sure_it_is() -> None:
    x = draws(0, 40)
    surrogate = Surrogate(x, x[:, 2] + 5.0, GROUPS)
    new = draws(1, 30)
    mean, std = surrogate.predict(new)
    assert np.corrcoef(mean, new[:, 2])[0, 1] > 0.95
    _, at_trials = surrogate.predict(x)
    assert at_trials.mean() < std.mean()


@pytest.mark.parametrize("seed", range(3))
def test_among_many_dimensions_a_few_trials_teach_the_two_that_matter(seed: int) -> None:
    rng, groups = np.random.default_rng(seed), tuple((column,) for column in range(40))
    x, new = rng.normal(size=(16, 40)), rng.normal(size=(60, 40))
    mean, _ = Surrogate(x, x[:, 0] + x[:, 1], groups).predict(new)
    assert np.corrcoef(mean, new[:, 0] + new[:, 1])[0, 1] > 0.5


def test_imagined_results_make_their_places_certain_and_keep_the_mean() -> None:
    x = draws(0, 20)
    surrogate = Surrogate(x, x[:, 2], GROUPS)
    place = draws(5, 3)
    mean, std = surrogate.predict(place)
    surrogate.imagine(place, mean)
    again, less = surrogate.predict(place)
    assert again == pytest.approx(mean, abs=0.05)
    assert (less < std).all()


def test_one_disaster_does_not_hide_the_differences_among_the_rest() -> None:
    x = draws(0, 30)
    values = x[:, 2].copy()
    values[7] = 1e6
    mean, _ = Surrogate(x, values, GROUPS).predict(draws(1, 30))
    assert np.corrcoef(mean, draws(1, 30)[:, 2])[0, 1] > 0.8


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_equal_results_are_no_trouble(value: float) -> None:
    mean, std = Surrogate(draws(0, 5), np.full(5, value), GROUPS).predict(draws(1, 2))
    assert mean == pytest.approx([value, value], rel=1e-6, abs=1e-9)
    assert np.isfinite(std).all()


def test_the_same_trials_give_the_same_surrogate() -> None:
    x = draws(0, 12)
    predictions = [Surrogate(x, x[:, 0], GROUPS).predict(draws(1, 4)) for _ in range(2)]
    assert np.array_equal(predictions[0], predictions[1])


def test_a_doubtful_value_is_believed_less() -> None:
    x = draws(0, 20)
    values = x[:, 2].copy()
    values[0] += 3.0
    far = np.zeros(20)
    far[0] = 10.0
    trusting, doubting = (
        Surrogate(x, values, GROUPS, std).predict(x[:1])[0][0] for std in (None, far)
    )
    assert abs(doubting - x[0, 2]) < abs(trusting - x[0, 2])
