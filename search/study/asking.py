"""Ask Optuna for a trial so that a crash while it is stored does not change its values."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from search.samplers.distributions import distribution as distribution_of, suggest
from space.domain import Domain


FIXED_PARAMS = "fixed_params"
"""Optuna's key of the parameter values of an enqueued trial."""


def ask(
    study: optuna.Study,
    sampler: BaseSampler,
    domains: Mapping[str, Domain],
    unfinished: int | None = None,
) -> Trial:
    """Return a new trial with a value of every name.

    Args:
        study: to ask.
        sampler: a new one, whose seed depends on the trial's number.
        domains: of every name.
        unfinished: the storage's number of a trial whose driver died while its parameters were
            being stored; it gets the values that it would have had.
    """
    distributions = {name: distribution_of(domain) for name, domain in domains.items()}
    study.sampler = _AtOnce(sampler, distributions)
    if unfinished is None:
        return study.ask(dict(distributions))
    trial = Trial(study, unfinished)
    for name, domain in domains.items():
        suggest(trial, name, domain)
    return trial


class _AtOnce(BaseSampler):
    """Draws all values before the first of them is stored.

    Optuna stores every value as it is drawn. A sampler that draws from one stream of random
    numbers would draw other values if some of them were already stored.
    """

    def __init__(self, sampler: BaseSampler, space: Mapping[str, BaseDistribution]) -> None:
        self._sampler, self._space = sampler, space

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002 - Optuna's signature
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return dict(self._space)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return a value for every name, as Optuna would choose them one after the other."""
        relative = self._sampler.infer_relative_search_space(study, trial)
        found = self._sampler.sample_relative(study, trial, relative)
        fixed = trial.system_attrs.get(FIXED_PARAMS, {})
        for name, distribution in search_space.items():
            if name not in found and name not in fixed and not distribution.single():
                value = self._sampler.sample_independent(study, trial, name, distribution)
                found[name] = value
        return found

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a value of a parameter outside the relative search space."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Pass on that a trial begins."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Pass on how a trial has ended."""
        self._sampler.after_trial(study, trial, state, values)
