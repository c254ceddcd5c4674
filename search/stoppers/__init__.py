"""Stoppers by name: rules that end trainings early, by comparing the trials at a rung."""

from search.stoppers.registry import NO_STOPPER, STOPPERS, Rule, Standing, StopperSpec
from search.stoppers.rules import (
    CLOSER,
    DOUBLING,
    AccuracyHalving,
    MedianRule,
    ParetoHalving,
    go_on,
)


__all__ = ["NO_STOPPER", "STOPPERS", "Rule", "Standing", "StopperSpec"]


def _add(name: str, summary: str, goes_on: Rule, fractions: tuple[float, ...] = ()) -> None:
    STOPPERS.add(name, StopperSpec(summary=summary, goes_on=goes_on, fractions=fractions))


_add(NO_STOPPER, "every trial is trained in full; the default", go_on)
_add(
    "pareto",
    "successive halving by non-domination, accuracy so far against exact cost",
    ParetoHalving(reduction=2.0, minimum=1),
    CLOSER,
)
_add(
    "asha",
    "successive halving by accuracy so far alone, whatever it costs: stops the small models",
    AccuracyHalving(reduction=2.0),
    DOUBLING,
)
_add(
    "median",
    "what is less accurate than the median so far is stopped, whatever it costs",
    MedianRule(after=3),
    DOUBLING,
)
