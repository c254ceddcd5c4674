"""Budgets: bounds on costs, which hold before training, and on metrics that training measures."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypedDict, Unpack

from pydantic import BeforeValidator, Field, model_validator

from castling.config import Config
from castling.config.limits import LARGEST_COUNT
from castling.errors import ConfigError
from castling.metrics import METRICS, Metric, Source, recorded_metrics
from castling.sizes import parse_size


SHORT = ("macs", "params", "latency_ms")
"""The metrics whose upper bounds are fields of a budget, max_macs and so on."""


def _parse(value: object) -> object:
    return parse_size(value, "budget") if isinstance(value, str | bool) else value


Size = Annotated[int, BeforeValidator(_parse), Field(ge=1, le=LARGEST_COUNT)]
Side = Literal["max", "min"]


UNMEASURED = 10.0
"""The largest overrun that samplers receive, also used if a bounded metric was not measured."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The largest or the smallest value that a metric may have."""

    metric: Metric
    side: Side
    value: float

    @property
    def field(self) -> str:
        """Path of the bound in a budget: max_macs, or max.peak_bytes."""
        is_short = self.side == "max" and self.metric.name in SHORT
        return f"max_{self.metric.name}" if is_short else f"{self.side}.{self.metric.name}"

    def excess(self, value: float) -> float:
        """Return the overrun of a value relative to the bound; infinite for NaN."""
        if math.isnan(value):
            return math.inf
        over = value - self.value if self.side == "max" else self.value - value
        return over / (abs(self.value) or 1.0)

    @property
    def _said(self) -> float:
        """The value that a table's text of the bound shows, which may be rounded."""
        text = self.metric.text(self.value).replace(",", "")
        return float(text.removesuffix("%")) * (0.01 if text.endswith("%") else 1.0)

    def words(self, *, short: bool = False) -> str:
        """Return the bound in words: 1,200,000 MACs, or peak_bytes at most 40,000,000 bytes."""
        amount = self.metric.amount(self.value, short=short)
        if not self.metric.is_count and not math.isclose(self._said, self.value):
            exact = f"{100.0 * self.value:.12g}%" if "%" in amount else f"{self.value:.12g}"
            amount = amount.replace(self.metric.text(self.value), exact)
        if self.field.startswith("max_"):
            return amount
        return f"{self.metric.name} at {'most' if self.side == 'max' else 'least'} {amount}"


class Limits(TypedDict, total=False):
    """Upper and lower bounds as users write them; None, or one that is left out, is no bound."""

    max_macs: str | int | None
    """Multiply-accumulates per image, such as 1_200_000 or "1.2M"."""
    max_params: str | int | None
    """Parameters."""
    max_latency_ms: float | None
    """Milliseconds per image by the run's table, if it has one."""
    max: Mapping[str, str | float] | None
    """Largest values of other metrics to be low, such as {"train_seconds": 60}."""
    min: Mapping[str, str | float] | None
    """Smallest values of metrics to be high, such as {"top1": 0.9}."""


class Budget(Config):
    """Bounds on the castled model and its training; None, or no entry, is no bound.

    A metric to minimise has an upper bound, in `max`, one to maximise a lower one, in `min`. A
    model over a bound on a cost is not trained. A trial over a bound on a metric that training
    measures is trained, but is on no front.
    """

    max_macs: Size | None = None
    """Multiply-accumulates per image of the castled model."""
    max_params: Size | None = None
    """Parameters of the castled model."""
    max_latency_ms: float | None = Field(default=None, gt=0.0)
    """Milliseconds of one image, summed from a table that is measured on this machine."""
    max: dict[str, int | float] = Field(default_factory=dict)
    """Largest value of any other metric."""
    min: dict[str, int | float] = Field(default_factory=dict)
    """Smallest value of any metric."""

    @model_validator(mode="before")
    @classmethod
    def _values(cls, data: object) -> object:
        """Parse the bounds, and move those that have a field, such as max_macs, to that field."""
        if not isinstance(data, dict):
            return data
        fields = dict(data)
        for side in ("max", "min"):
            bounds = fields.get(side)
            if not isinstance(bounds, Mapping):
                continue
            fields[side] = {}
            for name, raw in bounds.items():
                place = f"{side}.{name}"
                value = _bounded(str(name), side, place).parse(raw, place)
                if side == "min" or name not in SHORT:
                    fields[side][str(name)] = value
                elif fields.get(f"max_{name}") is None:
                    fields[f"max_{name}"] = value
                else:
                    raise ConfigError(place, f"must not be bounded twice, by max_{name}, too")
        return fields

    @cached_property
    def _bounds(self) -> tuple[Bound, ...]:
        """All bounds; made once, as every candidate of a search is held against them."""
        short = ((name, getattr(self, f"max_{name}")) for name in SHORT)
        upper = [(name, value) for name, value in short if value is not None]
        upper += self.max.items()
        return (
            *(Bound(METRICS[name], "max", value) for name, value in upper),
            *(Bound(METRICS[name], "min", value) for name, value in self.min.items()),
        )

    def bounds(self, source: Source | None = None) -> Iterator[Bound]:
        """Yield the bounds on costs, on what training measures, or all."""
        return (bound for bound in self._bounds if source in (None, bound.metric.source))

    def bound(self, metric: str, side: Side) -> float | None:
        """Return a metric's bound on one side, None where there is none."""
        values = (b.value for b in self._bounds if b.metric.name == metric and b.side == side)
        return next(values, None)

    def violation(self, values: Mapping[str, float], source: Source | None = None) -> float:
        """Return the largest relative overrun, at most 0 within the budget.

        Args:
            values: metrics by name; one that is missing or NaN is in no bound.
            source: check only bounds on costs, or on metrics that training measures.
        """
        return max(
            (
                bound.excess(values.get(bound.metric.name, math.nan))
                for bound in self.bounds(source)
            ),
            default=-1.0,
        )

    def admits(self, values: Mapping[str, float], source: Source | None = None) -> bool:
        """Return whether values are within every bound, or within all of one source."""
        return self.violation(values, source) <= 0.0

    def words(self, *, short: bool = False) -> str:
        """Return the bounds in words, empty where there are none."""
        return " and ".join(bound.words(short=short) for bound in self._bounds)

    @classmethod
    def of(cls, **limits: Unpack[Limits]) -> "Budget":
        """Return the budget of written bounds, as the command line and `.pareto` take them.

        Raises:
            ConfigError: when one is no value of its metric, on its wrong side, or no bound at all.
        """
        data: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
        for name in data.keys() & {"max_macs", "max_params"}:
            data[name] = parse_size(data[name], name)
        return cls(**data)

    def over(self, other: "Budget") -> "Budget":
        """Return another budget with this one's bounds in place of those on the same metrics."""
        short = {f"max_{name}": getattr(self, f"max_{name}") for name in SHORT}
        return other.replace(
            **{name: value for name, value in short.items() if value is not None},
            max={**other.max, **self.max},
            min={**other.min, **self.min},
        )


def _bounded(name: str, side: str, place: str) -> Metric:
    """Return the metric of a bound; ConfigError when there is none, or it takes another bound."""
    if name not in METRICS or METRICS[name].curve_only:
        names = ", ".join(metric.name for metric in recorded_metrics())
        rule = f"must bound one of {names}, or one of a package that is installed"
        raise ConfigError(place, rule)
    metric = METRICS[name]
    if metric.direction == side:
        way, other = ("high", "min") if side == "max" else ("low", "max")
        rule = f"must bound a metric on its worse side: {name} is to be {way}"
        raise ConfigError(place, rule, fix=f"bound it with {other}")
    return metric


def parse_bounds(raw: Iterable[str], option: str) -> dict[str, str]:
    """Return the bounds of METRIC=VALUE arguments, as they are written.

    Raises:
        ConfigError: when one is not written so, or names a metric again.
    """
    bounds: dict[str, str] = {}
    for text in raw:
        name, equals, value = text.partition("=")
        if not equals or not name or name in bounds:
            rule = "must be METRIC=VALUE, each metric once, such as train_seconds=60"
            raise ConfigError(option, rule, text)
        bounds[name] = value
    return bounds
