"""Domains of a space as Optuna's distributions: the only place where the two meet."""

from functools import singledispatch

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from space.domain import Choice, Domain, FloatRange, Forms, IntRange, Value
from space.point import Space


class _Distributions(Forms[BaseDistribution]):
    """The forms of a domain as Optuna's distributions."""

    def categorical(self, values: tuple[Value, ...]) -> CategoricalDistribution:
        return CategoricalDistribution(values)

    def whole(self, low: int, high: int, step: int) -> IntDistribution:
        return IntDistribution(low, high, step=step)

    def real(self, low: float, high: float, *, log: bool) -> FloatDistribution:
        return FloatDistribution(low, high, log=log)


class _Suggestions(Forms[Value]):
    """The forms of a domain as a trial's suggestions for one name."""

    def __init__(self, trial: Trial, name: str) -> None:
        self._trial, self._name = trial, name

    def categorical(self, values: tuple[Value, ...]) -> Value:
        return self._trial.suggest_categorical(self._name, values)

    def whole(self, low: int, high: int, step: int) -> Value:
        return self._trial.suggest_int(self._name, low, high, step=step)

    def real(self, low: float, high: float, *, log: bool) -> Value:
        return self._trial.suggest_float(self._name, low, high, log=log)


def distribution(domain: Domain) -> BaseDistribution:
    """Return the Optuna distribution of a domain."""
    return domain.form(_Distributions())


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the distribution of every name of a space's points."""
    return {name: distribution(domain) for name, domain in space.domains.items()}


@singledispatch
def domain_of(distribution: BaseDistribution) -> Domain:
    """Return the domain of a distribution that `distribution` has made."""
    raise TypeError(f"{distribution} is no distribution of a domain")


@domain_of.register
def _(distribution: CategoricalDistribution) -> Domain:
    return Choice(tuple(distribution.choices))


@domain_of.register
def _(distribution: IntDistribution) -> Domain:
    return IntRange(distribution.low, distribution.high, distribution.step)


@domain_of.register
def _(distribution: FloatDistribution) -> Domain:
    return FloatRange(distribution.low, distribution.high, distribution.log)


def suggest(trial: Trial, name: str, domain: Domain) -> Value:
    """Give a trial a value for a name, unless it has one, and return it."""
    return domain.form(_Suggestions(trial, name))
