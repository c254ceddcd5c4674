"""The registry of stoppers: the rungs and the rule of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from castling.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The result of a trial at a rung."""

    values: tuple[float, ...]
    """Per objective, to minimise: the costs, else the values measured at the rung."""
    score: float
    """The first objective that training measures, to minimise; NaN if there is none."""
    cost_range: int = 0
    """The cost range of the trial, 0 the cheapest."""


Rule = Callable[[Standing, Sequence[Standing]], bool]
"""Decides from a trial and the others that have reached the rung whether it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopperSpec:
    """A stopper's entry in the registry."""

    summary: str
    """One line for the table of stoppers."""
    goes_on: Rule
    fractions: tuple[float, ...] = ()
    """The rungs: the parts of its planned epochs after which a trial is judged."""


STOPPERS: Registry[StopperSpec] = Registry("stopper", entry_points="castling.stoppers")
NO_STOPPER = "none"
