"""The class of metrics: name, unit, direction, formats, parsing of written values."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from castling.errors import ConfigError
from castling.sizes import SUFFIXES, format_size, parse_size


Direction = Literal["max", "min"]
Source = Literal["cost", "training"]
FRACTION = "fraction"
"""The unit of a part of a whole, 0 to 1, which is written and drawn in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that is recorded of every trial, may be traded off and may be bounded.

    Another package adds one by `register` in a module that it names in the entry point group
    `castling.metrics`.
    """

    name: str
    """Of the column, the objective and the bound; lower case, such as peak_bytes."""
    description: str
    """One line for tables of metrics and columns."""
    source: Source
    """`cost`: computed from a model's config before training. `training`: measured by it."""
    unit: str = ""
    """What the number counts: MACs, s, `fraction`; empty where it counts nothing."""
    heading: str = ""
    """Short title of a table's column; the name by default."""
    label: str = ""
    """Title of an axis, with the unit; made from name and unit by default."""
    direction: Direction | None = None
    """Where it is better; None where that depends on the purpose. It decides which bound a metric
    takes: `max` where it is to be low, `min` where it is to be high."""
    best: float | None = None
    """Best conceivable value, in `direction`; None where there is none."""
    worst: float | None = None
    """Worst conceivable value, in `direction`; None where there is none."""
    dtype: Literal["int64", "float64"] = "float64"
    """Of the column: counts are int64."""
    format: str = ""
    """Python's format of a float in a table; by default .2% of a fraction, .4g of any other.
    Counts are written with separators."""
    improves: bool = True
    """Whether it gets better with the epochs, so that the best epoch so far counts at a rung."""
    curve_only: bool = False
    """Whether only learning curves hold it: it is recorded of epochs, not of trials."""
    cost: Callable[[Any], float] | None = None
    """Returns the metric of a model's config, castled; only where source is cost."""
    evaluate: Callable[[Any, Iterable[Any]], float] | None = None
    """Returns the metric of a castled model, in eval mode and without gradients, from batches of
    the validation split: `images` (batch, channel, height, width), normalised, and `labels`
    (batch). Only where source is training; NaN says that it is not defined."""

    def __post_init__(self) -> None:
        if self.direction is None and (self.best, self.worst) != (None, None):
            raise ValueError(f"metric {self.name}: best and worst need a direction")
        if self.cost and self.source != "cost":
            raise ValueError(f"metric {self.name}: only one of source cost has a cost hook")
        if self.evaluate and self.source != "training":
            raise ValueError(f"metric {self.name}: only one of source training is evaluated")

    @property
    def is_cost(self) -> bool:
        """Whether it is computed before training."""
        return self.source == "cost"

    @property
    def is_count(self) -> bool:
        """Whether its values are whole numbers."""
        return self.dtype == "int64"

    @property
    def title(self) -> str:
        """The heading of a column."""
        return self.heading or self.name

    @property
    def axis(self) -> str:
        """The title of an axis."""
        unit = "%" if self.unit == FRACTION else self.unit
        return self.label or (f"{self.name} ({unit})" if unit else self.name)

    @property
    def axis_factor(self) -> float:
        """The factor of values on an axis: fractions are drawn in percent."""
        return 100.0 if self.unit == FRACTION else 1.0

    def ideal(self, direction: Direction) -> float | None:
        """Return the best value in a direction; by default 0 for a metric to minimise."""
        extreme = self.best if direction == self.direction else self.worst
        return 0.0 if extreme is None and direction == "min" else extreme

    def limit(self, direction: Direction) -> float | None:
        """Return the worst value in a direction; by default 0 for a metric to maximise."""
        extreme = self.worst if direction == self.direction else self.best
        return 0.0 if extreme is None and direction == "max" else extreme

    def text(self, value: float) -> str:
        """Return a value for a table, exact where it is a count; - where it was not measured."""
        if math.isnan(value):
            return "-"
        if self.is_count:
            return f"{int(value):,}"
        return format(value, self.format or (".2%" if self.unit == FRACTION else ".4g"))

    def short(self, value: float) -> str:
        """Return a value for a terminal: counts have three digits and a suffix, 1.25M."""
        return format_size(value) if self.is_count and math.isfinite(value) else self.text(value)

    def amount(self, value: float, *, short: bool = False) -> str:
        """Return a value with its unit: 1,200,000 MACs, or in short 1.20M MACs."""
        text = self.short(value) if short else self.text(value)
        return text if self.unit in {"", FRACTION} else f"{text} {self.unit}"

    def parse(self, raw: object, field: str) -> float:
        """Return the value that a number or a text such as 1.2M, 0.9 or 90% stands for.

        Raises:
            ConfigError: when it is none that the metric can have.
        """
        if self.is_count:
            return parse_size(raw, field)  # type: ignore[arg-type]  # it refuses all others
        value = _parsed(raw, is_fraction=self.unit == FRACTION)
        if value is None:
            example = "0.9 or 90%" if self.unit == FRACTION else "2.5 or 900k"
            raise ConfigError(field, f"must be a number such as {example}", raw)
        return self.checked(value, field)

    def checked(self, value: object, field: str = "") -> float:
        """Return a value that was measured or written, as a number: NaN where there is none.

        Raises:
            ConfigError: when it is no number, or none that the metric can have.
        """
        place = field or f"metric {self.name}"
        try:
            number = float(value)  # type: ignore[arg-type]  # tensors and numpy's numbers, too
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(place, "must be a number", value) from None
        if math.isnan(number):
            return number
        if self.best is not None and self.worst is not None:
            low, high = sorted((self.best, self.worst))
            if not low <= number <= high:
                raise ConfigError(place, f"must be between {low:g} and {high:g}", value)
        if not self.is_count:
            return number
        if not number.is_integer():
            raise ConfigError(place, "must be a whole number", value)
        return int(value)  # type: ignore[call-overload]  # exact, which float(value) may not be


def _parsed(raw: object, *, is_fraction: bool) -> float | None:
    """Return a number that is written plainly, with a suffix or in percent; None for any other."""
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        return None
    number = r"\s*([-+]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,3})?)\s*([kMGT%]?)\s*"
    match = re.fullmatch(number, str(raw)[:99])
    if match is None or (match[2] == "%" and not is_fraction):
        return None
    value = float(match[1]) * (0.01 if match[2] == "%" else SUFFIXES[match[2]])
    return value if math.isfinite(value) else None
