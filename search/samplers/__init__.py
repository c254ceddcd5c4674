"""Who proposes candidates: samplers by name, and how each of them learns of a refusal."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection

from castling.errors import ConfigError, InvalidPointError, UnknownNameError
from castling.registry import Registry
from reports.records import Objective
from search.objectives import DIRECTIONS, reference_point
from search.samplers.distributions import distributions
from search.samplers.pareto.sampler import ParetoSampler
from search.samplers.pareto.space_problem import SpaceProblem
from search.samplers.sobol import SobolSampler
from space.budget import Budget
from space.cost_model import CostModel
from space.decode import decode
from space.feasible import default_point
from space.point import Point, Space


class Refusal(StrEnum):
    """How a proposal over budget is told, so that the sampler learns from it."""

    PRUNED = "pruned"
    """Pruned, with the violated constraint."""
    WORST = "worst"
    """Complete, with the worst objective values and the violated constraint."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a sampler may know of the search."""

    space: Space
    budget: Budget
    objectives: tuple[Objective, ...]
    seed: int
    """The search's."""
    feasible_point: Point
    """A point within the budget."""
    pricing: CostModel

    @cached_property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """Optuna's distribution of every name of a point."""
        return distributions(self.space)

    @cached_property
    def problem(self) -> SpaceProblem:
        """The space under its budget, with what it remembers of points."""
        return SpaceProblem(
            self.space,
            self.budget,
            self.objectives,
            reference_point(self.space, self.budget, self.objectives),
            self.feasible_point,
            self.pricing,
        )

    @property
    def directions(self) -> list[StudyDirection]:
        """Optuna's directions."""
        return [DIRECTIONS[goal.direction] for goal in self.objectives]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """A sampler's entry in the registry."""

    summary: str
    """One line for the table of samplers."""
    make: Callable[[Setting, int], BaseSampler]
    """Makes the sampler for one proposal, so that it keeps no state, from a seed of its own."""
    refusal: Refusal
    """What the sampler learns from."""
    stays_within_budget: bool = False
    """Whether it proposes only models that can be built and are within the budget, so that no
    proposal is refused; the contract tests hold it to that."""
    is_slow: bool = False
    """Whether a proposal takes a second or more; the contract tests of such are marked slow."""


SAMPLERS: Registry[SamplerSpec] = Registry("sampler", entry_points="castling.samplers")
BUDGET_CONSTRAINT = "budget"
"""Name of the constraint that a proposal over budget violates."""
OPTUNA = "optuna:"
"""Where the name of any other of Optuna's samplers begins."""
DRESS_REHEARSAL = 12
"""Proposals by which an unlisted sampler shows that it can do what is asked."""


def sampler_named(name: str) -> SamplerSpec:
    """Return the sampler of a registered name, or of `optuna:` and a class of Optuna's.

    Raises:
        UnknownNameError: when there is none.
        ConfigError: when it pickles what it has learnt into the study.
    """
    if not name.startswith(OPTUNA):
        if name not in SAMPLERS:
            raise UnknownNameError("sampler", name, [*SAMPLERS, f"{OPTUNA}CLASS"])
        return SAMPLERS[name]
    kind = getattr(optuna.samplers, name.removeprefix(OPTUNA), None)
    if kind is CmaEsSampler:
        rule = "must keep no pickle in the study, where a resumed search would run what it holds"
        raise ConfigError("sampler", rule, name, f"those that can are {', '.join(SAMPLERS)}")
    if not (inspect.isclass(kind) and issubclass(kind, BaseSampler)) or inspect.isabstract(kind):
        known = [other for other in optuna.samplers.__all__ if other.endswith("Sampler")]
        raise UnknownNameError("sampler", name, [f"{OPTUNA}{other}" for other in known])
    made: Callable[..., BaseSampler] = kind
    takes_seed = "seed" in inspect.signature(kind).parameters
    return SamplerSpec(
        summary=f"Optuna's {kind.__name__}",
        make=_experimental(lambda seed: made(seed=seed) if takes_seed else made()),
        refusal=Refusal.WORST,
    )


def check_sampler(name: str, setting: Setting) -> None:
    """Raise ConfigError unless a sampler can search this space for these objectives.

    Those with a name of their own can. Any other is put through a dozen made-up trials.
    """
    if not name.startswith(OPTUNA):
        return
    spec = sampler_named(name)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(directions=setting.directions)
            for number in range(DRESS_REHEARSAL):
                study.sampler = spec.make(setting, number)
                trial = study.ask(dict(setting.distributions))
                trial.set_constraint(BUDGET_CONSTRAINT, -1.0)
                study.tell(trial, [float(number % 5)] * len(setting.objectives))
    except Exception as error:  # noqa: BLE001 - whatever a sampler raises, it cannot serve
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        rule = f"must be able to search this space for these objectives ({reason})"
        fix = f"those that can are {', '.join(SAMPLERS)}"
        raise ConfigError("sampler", rule, name, fix) from None


def check_points(points: Sequence[Point], setting: Setting) -> None:
    """Raise ConfigError unless each point is one of the space, consistent and within the budget.

    What a point leaves out has the value that comes closest to the space's base config.
    """
    for number, given in enumerate(points):
        place = f"points: number {number + 1}"
        try:
            run = decode(setting.space, default_point(setting.space) | dict(given))
        except InvalidPointError as error:
            rule = f"must be a point of the space: {error.dimension} {error.rule}"
            raise ConfigError(place, rule, error.value) from None
        except ConfigError as error:
            raise ConfigError(place, f"must be a model ({error})") from None
        costs = setting.pricing(run.model)
        if not costs.within(setting.budget):
            raise ConfigError(place, "must be within the budget", costs.words(setting.budget))


def _add(
    name: str,
    refusal: Refusal,
    summary: str,
    make: Callable[[Setting, int], BaseSampler],
    **facts: bool,
) -> None:
    SAMPLERS.add(name, SamplerSpec(summary=summary, make=make, refusal=refusal, **facts))


def _pareto(setting: Setting, seed: int) -> BaseSampler:
    return ParetoSampler(setting.problem, setting.objectives, setting.distributions, seed)


def _experimental(make: Callable[[int], BaseSampler]) -> Callable[[Setting, int], BaseSampler]:
    """Silence that Optuna calls a sampler experimental: who names it has chosen it."""

    def quietly(_: Setting, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return make(seed)

    return quietly


_add(
    "pareto",
    Refusal.PRUNED,
    "costs known, accuracy learnt, exact expected hypervolume improvement; the default",
    _pareto,
    stays_within_budget=True,
)
_add(
    "tpe",
    Refusal.PRUNED,
    "multivariate tree-structured Parzen estimator",
    lambda _, seed: TPESampler(multivariate=True, seed=seed),
)
_add(
    "random",
    Refusal.PRUNED,
    "independent draws from every domain",
    lambda _, seed: RandomSampler(seed=seed),
)
_add(
    "sobol",
    Refusal.PRUNED,
    "a scrambled Sobol' sequence over every dimension",
    lambda setting, _: SobolSampler(setting.space, setting.seed),
)
_add(
    "nsga2",
    Refusal.WORST,
    "NSGA-II, an evolutionary algorithm with populations of 20",
    lambda _, seed: NSGAIISampler(population_size=20, seed=seed),
)
_add(
    "nsga3",
    Refusal.WORST,
    "NSGA-III, the same for many objectives",
    _experimental(lambda seed: NSGAIIISampler(population_size=20, seed=seed)),
)
_add(
    "gp",
    Refusal.WORST,
    "Optuna's Gaussian processes; seconds per proposal",
    _experimental(lambda seed: GPSampler(seed=seed)),
    is_slow=True,
)
