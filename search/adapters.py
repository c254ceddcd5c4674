"""Domains of a space as Optuna's distributions: the only place where the two meet."""

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from space.domain import Choice, Domain, IntRange
from space.point import Space


def distribution(domain: Domain) -> BaseDistribution:
    """Return the Optuna distribution of a domain."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, IntRange):
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the distribution of every name of a space's points."""
    return {name: distribution(domain) for name, domain in space.domains.items()}
