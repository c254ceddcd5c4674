"""A Sobol' sequence over all dimensions, choices included, as one of Optuna's samplers."""

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from search.samplers.distributions import distributions
from space.point import Space


class SobolSampler(BaseSampler):
    """Proposes, as the trial of number n, the n-th point of a scrambled Sobol' sequence.

    Optuna's own QMCSampler draws choices at random; here the sequence covers them too.

    Args:
        space: what is searched.
        seed: of the scrambling.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._domains, self._seed = space.domains, seed
        self._distributions = distributions(space)

    def infer_relative_search_space(
        self,
        study: Study,  # noqa: ARG002 - Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return self._distributions

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
            name: self._domains[name].from_unit(float(number))
            for name, number in zip(search_space, row, strict=False)
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
