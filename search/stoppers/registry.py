"""The table of stoppers: what each is, where its rungs are, what its rule is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from castling.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a trial had reached at a rung."""

    values: tuple[float, ...]
    """Of every objective, smaller is better: known costs, and else what was measured there."""
    score: float
    """Of the first objective that is measured, smaller is better; NaN where none is."""
    cost_range: int = 0
    """The range that its cost lies in, 0 the cheapest."""


Rule = Callable[[Standing, Sequence[Standing]], bool]
"""Whether a trial goes on, given the others that have reached the rung, in any order."""


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
