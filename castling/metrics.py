"""Metrics: each number that a search reports of a model is one object, from which all derive."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from castling.metric import FRACTION, Direction, Metric, Source
from castling.registry import Registry


__all__ = [
    "BRANCH",
    "BUILT_IN",
    "EMA",
    "FRACTION",
    "METRICS",
    "NAME",
    "OF_TASKS",
    "OWN",
    "STD",
    "Direction",
    "Metric",
    "Source",
    "all_metrics",
    "amounts",
    "metric_named",
    "plugin_metrics",
    "recorded_metrics",
    "register",
]


NAME = re.compile("[a-z][a-z0-9_]{0,63}")
"""What a metric may be called: its name is a column, a key and a word of the command line."""
BRANCH = "_branch"
"""Ends the name of a task's metric of the model with its auxiliary branches."""
EMA = "_ema"
"""Ends that of the moving average of the weights, castled."""
STD = "_std"
"""Ends that of a metric's sample standard deviation over a trial's repeats."""


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
OF_TASKS = frozenset({"top5", "balanced_accuracy", "macro_f1", "micro_f1", "map"})
"""Castling's metrics that a task may measure or not: tables have their columns where it did."""
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

    NAME_branch is a task's metric with the auxiliary branch, and NAME_ema that of the weights'
    moving average; curves hold them. NAME_std is the spread of a metric over a trial's repeats.
    """
    metric = OWN.get(name)  # first: thousands of stored records ask
    if metric is not None:
        return metric
    if name in METRICS:
        return METRICS[name]
    for end, words, short in (
        (BRANCH, "with the auxiliary branch", "with branch"),
        (EMA, "of the moving average of the weights", "of the average"),
    ):
        base = METRICS.get(name.removesuffix(end))
        if base is not None and name.endswith(end):
            return replace(
                base,
                name=name,
                description=f"{base.description}, {words}",
                heading=f"{base.title} {short}",
                label=f"{base.axis} {short}",
                curve_only=True,
                evaluate=None,
            )
    base = METRICS.get(name.removesuffix(STD))
    if base is not None and name.endswith(STD):
        return _spread(base)
    return Metric(name=name, description="of a package that is not installed", source="training")


def _spread(metric: Metric) -> Metric:
    """Return the metric that is the standard deviation of another over a trial's repeats."""
    return replace(
        metric,
        name=f"{metric.name}{STD}",
        description=f"standard deviation of {metric.name} over the trial's repeats",
        heading=f"{metric.title} (std)",
        label=f"{metric.axis}, standard deviation",
        direction="min",
        best=0.0,
        worst=None,
        dtype="float64",
        source="training",
        improves=False,
        cost=None,
        evaluate=None,
    )
