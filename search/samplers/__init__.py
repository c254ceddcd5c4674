"""Who proposes candidates: samplers by name.

Each entry imports what it needs when a sampler is made: a listing needs none of it.
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


for _name, _make, _refusal, _summary in (
    (
        "pareto",
        _pareto,
        Refusal.PRUNED,
        "costs known, accuracy learnt, exact expected hypervolume improvement; the default",
    ),
    ("tpe", _tpe, Refusal.PRUNED, "multivariate tree-structured Parzen estimator"),
    ("random", _random, Refusal.PRUNED, "independent draws from every domain"),
    ("sobol", _sobol, Refusal.PRUNED, "a scrambled Sobol' sequence over every dimension"),
    (
        "nsga2",
        _nsga2,
        Refusal.WORST,
        "NSGA-II, an evolutionary algorithm with populations of 20",
    ),
    ("nsga3", _nsga3, Refusal.WORST, "NSGA-III, the same for many objectives"),
    ("gp", _gp, Refusal.WORST, "Optuna's Gaussian processes; seconds per proposal"),
):
    SAMPLERS.add(_name, SamplerSpec(summary=_summary, make=_make, refusal=_refusal))
