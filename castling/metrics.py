"""Metrics: each number that a search reports of a model is one object, from which all derive."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from castling.errors import ConfigError
from castling.registry import Registry
from castling.sizes import SUFFIXES, format_size, parse_size


Direction = Literal["max", "min"]
Source = Literal["cost", "training"]
NAME = re.compile("[a-z][a-z0-9_]{0,63}")
"""What a metric may be called: its name is a column, a key and a word of the command line."""
BRANCH = "_branch"
"""Ends the name of a task's metric of the model with its auxiliary branches."""
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


METRICS: Registry[Metric] = Registry("metric", entry_points="castling.metrics")

BUILT_IN = (
    Metric(
        name="macs",
        description="multiply-accumulates per image of the castled model",
        source="cost",
        unit="MACs",
        heading="MACs",
        label="MACs per image",
        direction="min",
        best=0.0,
        dtype="int64",
    ),
    Metric(
        name="params",
        description="parameters of the castled model",
        source="cost",
        unit="parameters",
        heading="parameters",
        label="parameters",
        direction="min",
        best=0.0,
        dtype="int64",
    ),
    Metric(
        name="training_macs",
        description="the same of the forward pass with the branch alive",
        source="cost",
        unit="MACs",
        heading="training MACs",
        label="training MACs per image",
        direction="min",
        best=0.0,
        dtype="int64",
    ),
    Metric(
        name="latency_ms",
        description="time of one image by the table; missing without one",
        source="cost",
        unit="ms",
        heading="latency (ms)",
        label="latency (ms per image)",
        direction="min",
        best=0.0,
        format=".3g",
    ),
    Metric(
        name="loss",
        description="mean training loss of the last epoch",
        source="training",
        unit="nats",
        label="training loss (nats)",
        direction="min",
        best=0.0,
    ),
    Metric(
        name="top1",
        description="validation accuracy of the castled model",
        source="training",
        unit=FRACTION,
        heading="accuracy",
        label="validation accuracy (%)",
        direction="max",
        best=1.0,
        worst=0.0,
    ),
    Metric(
        name="top1_branch",
        description="validation accuracy with the auxiliary branch",
        source="training",
        unit=FRACTION,
        heading="accuracy with branch",
        label="validation accuracy with branch (%)",
        direction="max",
        best=1.0,
        worst=0.0,
    ),
    *(
        Metric(
            name=name,
            description=description,
            source="training",
            unit=FRACTION,
            label=f"{label} (%)",
            direction="max",
            best=1.0,
            worst=0.0,
        )
        for name, label, description in (
            (
                "top5",
                "validation top-5 accuracy",
                "validation images whose class is in the top 5",
            ),
            (
                "balanced_accuracy",
                "balanced accuracy",
                "mean of the classes' accuracies",
            ),
            ("macro_f1", "macro F1", "mean of the classes' F1"),
            ("micro_f1", "micro F1", "F1 of all labels together, of a multi-label task"),
            ("map", "mAP", "mean average precision, of a multi-label task"),
        )
    ),
    Metric(
        name="learning_rate",
        description="learning rate of the epoch's last step",
        source="training",
        format=".2e",
        improves=False,
        curve_only=True,
    ),
    Metric(
        name="mask_density",
        description="mask entries that survived the last epoch",
        source="training",
        unit=FRACTION,
        heading="mask density",
        label="mask entries that survive (%)",
        direction="min",
        best=0.0,
        worst=1.0,
        improves=False,
    ),
    Metric(
        name="images_per_s",
        description="training throughput of the last epoch",
        source="training",
        unit="images/s",
        heading="training (images/s)",
        label="training (images/s)",
        direction="max",
        worst=0.0,
        improves=False,
    ),
    Metric(
        name="train_seconds",
        description="wall-clock time of training, without waiting",
        source="training",
        unit="s",
        heading="training (s)",
        label="training (s)",
        direction="min",
        best=0.0,
        format=".1f",
        improves=False,
    ),
)
"""The metrics that come with castling, in the order of tables."""
OWN = {metric.name: metric for metric in BUILT_IN}


def register(metric: Metric) -> None:
    """Add a metric to METRICS; ValueError when the name is taken, or cannot be a column's."""
    if not NAME.fullmatch(metric.name):
        raise ValueError(f"a metric's name must match {NAME.pattern}, got {metric.name!r}")
    METRICS.add(metric.name, metric)


for _metric in BUILT_IN:
    register(_metric)


def plugin_metrics() -> list[Metric]:
    """Return the metrics that other distributions added, by name."""
    return [metric for metric in METRICS.values() if metric not in BUILT_IN]


def all_metrics() -> list[Metric]:
    """Return every metric, those of castling first."""
    return [*BUILT_IN, *plugin_metrics()]


def recorded_metrics(source: Source | None = None) -> list[Metric]:
    """Return the metrics that trials are recorded with, of one source or of both."""
    return [
        metric
        for metric in all_metrics()
        if not metric.curve_only and source in (None, metric.source)
    ]


def amounts(values: Mapping[str, float], names: Iterable[str]) -> list[str]:
    """Return some metrics in words, those that were measured: 38,816 MACs, top1 95.00%."""
    measured = [name for name in names if not math.isnan(values.get(name, math.nan))]
    plain = {"macs", "params", "latency_ms"}  # whose units say what they count
    return [
        f"{'' if name in plain else f'{name} '}{metric_named(name).amount(values[name])}"
        for name in measured
    ]


def metric_named(name: str) -> Metric:
    """Return a registered metric, or for the name of one whose package is gone a plain one.

    NAME_branch is a task's metric with the auxiliary branch, which curves hold.
    """
    metric = OWN.get(name)  # first: thousands of stored records ask
    if metric is not None:
        return metric
    if name in METRICS:
        return METRICS[name]
    base = METRICS.get(name.removesuffix(BRANCH))
    if base is not None and name.endswith(BRANCH):
        return replace(
            base,
            name=name,
            description=f"{base.description}, with the auxiliary branch",
            heading=f"{base.title} with branch",
            label=f"{base.axis} with branch",
            curve_only=True,
            evaluate=None,
        )
    return Metric(name=name, description="of a package that is not installed", source="training")
