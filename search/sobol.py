"""A Sobol' sequence over all dimensions, choices included, as one of Optuna's samplers."""

from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from scipy.stats import qmc


class SobolSampler(BaseSampler):
    """Proposes, as the trial of number n, the n-th point of a scrambled Sobol' sequence.

    Optuna's own QMCSampler draws choices at random; here the sequence covers them too.

    Args:
        space: the distribution of every name.
        seed: of the scrambling.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        self._space, self._seed = dict(space), seed

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return self._space

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the sequence's point of the trial's number."""
        sequence = qmc.Sobol(max(1, len(search_space)), scramble=True, rng=self._seed)
        if trial.number:
            sequence.fast_forward(trial.number)
        [row] = sequence.random(1)
        return {
            name: _stretched(distribution, float(number))
            for (name, distribution), number in zip(search_space.items(), row, strict=False)
        }

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """Raise, because every name has its place in the sequence."""
        raise KeyError(param_name)


def _stretched(distribution: BaseDistribution, number: float) -> Any:
    """Return the value of a distribution at a number of [0, 1), equal shares for each value."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(number * len(distribution.choices))]
    if isinstance(distribution, IntDistribution):
        count = (distribution.high - distribution.low) // distribution.step + 1
        return distribution.low + int(number * count) * distribution.step
    assert isinstance(distribution, FloatDistribution)
    low, high = distribution.low, distribution.high
    value = low * (high / low) ** number if distribution.log else low + number * (high - low)
    return min(max(value, low), high)
