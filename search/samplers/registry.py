"""The table of samplers: what each is, how it is made, how it learns of a refusal."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from castling.registry import Registry


if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.context import SearchContext


class Refusal(StrEnum):
    """How a sampler is told of a proposal over budget, so that it learns from it."""

    PRUNED = "pruned"
    """Pruned, with the violated constraint."""
    WORST = "worst"
    """Complete, with the worst objective values and the violated constraint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """A sampler's entry in the registry."""

    summary: str
    """One line for the table of samplers."""
    make: "Callable[[SearchContext, int], BaseSampler]"
    """Makes the sampler for one proposal, so that it keeps no state, from a seed of its own."""
    refusal: Refusal
    """What the sampler learns from."""


SAMPLERS: Registry[SamplerSpec] = Registry("sampler", entry_points="castling.samplers")
BUDGET_CONSTRAINT = "budget"
"""Name of the constraint that a proposal over budget violates."""
