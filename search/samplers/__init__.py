"""Samplers, which propose candidates, by name.

Each entry imports its libraries when a sampler is made, so that listings are fast.
"""

from typing import TYPE_CHECKING

from search.samplers.registry import BUDGET_CONSTRAINT, SAMPLERS, Refusal, SamplerSpec


if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.context import SearchContext

__all__ = ["BUDGET_CONSTRAINT", "SAMPLERS", "Refusal", "SamplerSpec"]


def _pareto(context: "SearchContext", seed: int) -> "BaseSampler":
    from search.samplers.pareto.sampler import ParetoSampler

    return ParetoSampler(context, seed)


def _tpe(_: "SearchContext", seed: int) -> "BaseSampler":
    from optuna.samplers import TPESampler

    return TPESampler(multivariate=True, seed=seed)


def _random(_: "SearchContext", seed: int) -> "BaseSampler":
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _sobol(context: "SearchContext", _: int) -> "BaseSampler":
    from search.samplers.sobol import SobolSampler

    return SobolSampler(context.space, context.seed)


def _nsga2(_: "SearchContext", seed: int) -> "BaseSampler":
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(population_size=20, seed=seed)


def _nsga3(_: "SearchContext", seed: int) -> "BaseSampler":
    from optuna.samplers import NSGAIIISampler

    from search.samplers.optuna_samplers import quietly

    return quietly(lambda: NSGAIIISampler(population_size=20, seed=seed))


def _gp(_: "SearchContext", seed: int) -> "BaseSampler":
    from optuna.samplers import GPSampler

    from search.samplers.optuna_samplers import quietly

    return quietly(lambda: GPSampler(seed=seed))


for _name, _spec in {
    "pareto": SamplerSpec(
        summary="costs known, accuracy learnt, exact expected hypervolume improvement; "
        "the default",
        make=_pareto,
        refusal=Refusal.PRUNED,
        stays_within_budget=True,
    ),
    "tpe": SamplerSpec(
        summary="multivariate tree-structured Parzen estimator",
        make=_tpe,
        refusal=Refusal.PRUNED,
    ),
    "random": SamplerSpec(
        summary="independent draws from every domain", make=_random, refusal=Refusal.PRUNED
    ),
    "sobol": SamplerSpec(
        summary="a scrambled Sobol' sequence over every dimension",
        make=_sobol,
        refusal=Refusal.PRUNED,
    ),
    "nsga2": SamplerSpec(
        summary="NSGA-II, an evolutionary algorithm with populations of 20",
        make=_nsga2,
        refusal=Refusal.WORST,
    ),
    "nsga3": SamplerSpec(
        summary="NSGA-III, the same for many objectives", make=_nsga3, refusal=Refusal.WORST
    ),
    "gp": SamplerSpec(
        summary="Optuna's Gaussian processes; seconds per proposal",
        make=_gp,
        refusal=Refusal.WORST,
        is_slow=True,
    ),
}.items():
    SAMPLERS.add(_name, _spec)
