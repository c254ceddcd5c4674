"""Optuna's samplers, from the name of a class or with settings of castling."""

import inspect
import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler

from castling.errors import ConfigError, UnknownNameError
from search.context import SearchContext
from search.samplers.registry import BUDGET_CONSTRAINT, SAMPLERS, Refusal, SamplerSpec


PREFIX = "optuna:"
"""Prefix of the names of Optuna's other samplers."""
REHEARSED = 12
"""Trial proposals that an unlisted sampler must make before it is accepted."""


def quietly(make: Callable[[], BaseSampler]) -> BaseSampler:
    """Suppress Optuna's warning that a sampler is experimental: the user has chosen it by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make()


def sampler_of_class(name: str) -> SamplerSpec:
    """Return the sampler of `optuna:` and a class of Optuna's.

    Raises:
        UnknownNameError: when there is no such class.
        ConfigError: when it pickles what it has learnt into the study.
    """
    kind = getattr(optuna.samplers, name.removeprefix(PREFIX), None)
    if kind is CmaEsSampler:
        rule = "must keep no pickle in the study, where a resumed search would run what it holds"
        raise ConfigError("sampler", rule, name, f"those that can are {', '.join(SAMPLERS)}")
    if not (inspect.isclass(kind) and issubclass(kind, BaseSampler)) or inspect.isabstract(kind):
        known = [other for other in optuna.samplers.__all__ if other.endswith("Sampler")]
        raise UnknownNameError("sampler", name, [f"{PREFIX}{other}" for other in known])
    made: Callable[..., BaseSampler] = kind
    takes_seed = "seed" in inspect.signature(kind).parameters

    def make(_: SearchContext, seed: int) -> BaseSampler:
        return quietly(lambda: made(seed=seed) if takes_seed else made())

    return SamplerSpec(summary=f"Optuna's {kind.__name__}", make=make, refusal=Refusal.WORST)


def rehearse(name: str, spec: SamplerSpec, context: SearchContext) -> None:
    """Raise ConfigError unless a sampler gets through a dozen made-up trials of a search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(directions=context.directions)
            for number in range(REHEARSED):
                study.sampler = spec.make(context, number)
                trial = study.ask(dict(context.distributions))
                trial.set_constraint(BUDGET_CONSTRAINT, -1.0)
                study.tell(trial, [float(number % 5)] * len(context.objectives))
    except Exception as error:  # noqa: BLE001 - whatever a sampler raises, it cannot serve
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        rule = f"must be able to search this space for these objectives ({reason})"
        fix = f"those that can are {', '.join(SAMPLERS)}"
        raise ConfigError("sampler", rule, name, fix) from None
