"""Costs of a model, computed before training: MACs, parameters, latency, metrics of plugins."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from castling.config import Architecture
from castling.costs.cost import Cost
from castling.errors import ConfigError
from castling.metrics import METRICS, amounts, recorded_metrics
from space.budget import Budget
from space.cost import cost


class Costs(Mapping[str, float]):
    """The costs of a model, each computed at first use.

    Args:
        model: the config to price.
        latency_ms: returns the milliseconds of one image; None if latency does not count.
    """

    def __init__(
        self, model: Architecture, latency_ms: Callable[[Architecture], float] | None = None
    ) -> None:
        self._model, self._latency_ms = model, latency_ms
        self._closed_form: Cost = cost(model)
        self._found: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        if name not in self._found:
            self._found[name] = self._compute(name)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return (metric.name for metric in recorded_metrics("cost"))

    def __len__(self) -> int:
        return len(recorded_metrics("cost"))

    def words(self, budget: Budget) -> str:
        """Return the usual costs, and those that a budget bounds, in words."""
        bounded = (bound.metric.name for bound in budget.bounds("cost"))
        return ", ".join(amounts(self, dict.fromkeys(["macs", "params", "latency_ms", *bounded])))

    def _compute(self, name: str) -> float:
        if name in ("macs", "params", "training_macs"):
            return getattr(self._closed_form, name)
        if name == "latency_ms":
            return math.nan if self._latency_ms is None else self._latency_ms(self._model)
        metric = METRICS[name]
        if not metric.is_cost:
            raise KeyError(name)
        if metric.cost is None:
            return math.nan
        try:
            return metric.checked(metric.cost(self._model))
        except ConfigError:
            raise
        except Exception as error:  # whatever another's code raises, it cannot serve
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"metric {name}", f"must be defined for the model ({reason})"
            ) from error

    def within(self, budget: Budget) -> bool:
        """Return whether the costs are within every bound on costs."""
        return self.violation(budget) <= 0.0

    def violation(self, budget: Budget) -> float:
        """Return the largest relative overrun, at most 0 when the costs are within the budget."""
        return budget.violation(self, "cost")


@dataclass(frozen=True, slots=True)
class CostModel:
    """Costs of models: closed forms, hooks of metrics, and a latency table where one is needed."""

    latency_ms: Callable[[Architecture], float] | None = None

    def __call__(self, model: Architecture) -> Costs:
        """Return what a model costs."""
        return Costs(model, self.latency_ms)
