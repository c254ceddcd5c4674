"""Who proposes candidates: Optuna's samplers by name, and how each learns of a refusal."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from castling.registry import Registry


class Refusal(StrEnum):
    """How a proposal over budget is told, so that the sampler learns from it."""

    PRUNED = "pruned"
    """Pruned, with the violated constraint."""
    WORST = "worst"
    """Complete, with the worst objective values and the violated constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """A sampler's entry in the registry."""

    summary: str
    """One line for the table of samplers."""
    make: Callable[[int], BaseSampler]
    """Makes the sampler from a seed; one is made for every proposal, so it keeps no state."""
    refusal: Refusal
    """What the sampler learns from."""


SAMPLERS: Registry[SamplerSpec] = Registry("sampler")


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(multivariate=True, seed=seed)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(population_size=20, seed=seed)


SAMPLERS.add(
    "tpe",
    SamplerSpec(
        summary="multivariate tree-structured Parzen estimator, the default",
        make=_tpe,
        refusal=Refusal.PRUNED,
    ),
)
SAMPLERS.add(
    "random",
    SamplerSpec(
        summary="independent draws from every domain", make=_random, refusal=Refusal.PRUNED
    ),
)
SAMPLERS.add(
    "nsga2",
    SamplerSpec(
        summary="NSGA-II, an evolutionary algorithm with populations of 20",
        make=_nsga2,
        refusal=Refusal.WORST,
    ),
)
