"""What is known of a model before it is trained: MACs, parameters, and latency from a table."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan

from castling.config import Architecture
from space.budget import Budget
from space.cost import cost


KNOWN = ("macs", "params", "training_macs", "latency_ms")
"""The metrics that are known before training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a model costs; the metrics of KNOWN."""

    macs: int
    params: int
    training_macs: int
    latency_ms: float = float("nan")
    """Milliseconds of one image by the table; NaN where no table is used."""

    def __str__(self) -> str:
        """Return the costs in words."""
        words = f"{self.macs:,} MACs, {self.params:,} parameters"
        return words if isnan(self.latency_ms) else f"{words}, {self.latency_ms:.3g} ms"

    def within(self, budget: Budget) -> bool:
        """Return whether the costs are within every bound."""
        return self.violation(budget) <= 0.0

    def violation(self, budget: Budget) -> float:
        """Return the largest relative overrun, at most 0 when the costs are within the budget."""
        return budget.violation(self.macs, self.params, self.latency_ms)


@dataclass(frozen=True, slots=True)
class Pricing:
    """Prices models: closed forms, and a latency table where one is given."""

    latency_ms: Callable[[Architecture], float] | None = None

    def __call__(self, model: Architecture) -> Costs:
        """Return what a model costs."""
        spent = cost(model)
        return Costs(
            macs=spent.macs,
            params=spent.params,
            training_macs=spent.training_macs,
            latency_ms=float("nan") if self.latency_ms is None else self.latency_ms(model),
        )
