"""The registry of samplers: how each is made, and how it receives rejected proposals."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from castling.registry import Registry


if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.context import SearchContext


class Refusal(StrEnum):
    """How a sampler receives a proposal over budget, so that it learns from it."""

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
    """Makes the sampler for one proposal, from a seed, so that it has no state."""
    refusal: Refusal
    """How it receives rejected proposals."""
    stays_within_budget: bool = False
    """Whether it proposes only models that can be built and are within the budget, so that no
    proposal is refused; the contract tests hold it to that."""
    is_slow: bool = False
    """Whether a proposal takes a second or more; the contract tests of such are marked slow."""


SAMPLERS: Registry[SamplerSpec] = Registry("sampler", entry_points="castling.samplers")
BUDGET_CONSTRAINT = "budget"
"""Name of the constraint that a proposal over budget violates."""
