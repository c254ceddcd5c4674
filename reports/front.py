"""The front of a run as a table of text, with its hypervolume in words."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from castling.errors import ConfigError
from castling.metrics import metric_named
from reports.frame import tabulate
from reports.records import Objective, Record
from space.budget import Budget


SHOWN = ("top1", "macs", "params")
"""The metrics of every table of a front; objectives and bounded metrics follow them."""


def front_of(
    records: Sequence[Record], objectives: Sequence[Objective], budget: Budget
) -> pd.DataFrame:
    """Return the front of records as rows of a table, without columns of dimensions."""
    trials = tabulate(
        sorted(records, key=lambda record: record.trial),
        dimensions=False,
        metrics=[goal.metric for goal in objectives],
    )
    trials.attrs = {
        "objectives": [goal.to_data() for goal in objectives],
        "budget": budget.to_data(),
    }
    front: pd.DataFrame = trials.pareto.front()
    return front


def shown_metrics(front: pd.DataFrame, others: Sequence[str] = ()) -> list[str]:
    """Return the metrics that are columns of a front's table: those that were measured."""
    bounded = (bound.metric.name for bound in front.pareto.budget.bounds())
    names = dict.fromkeys([*SHOWN, *others, *front.pareto.objectives, *bounded])
    return [name for name in names if name in front and (front.empty or front[name].notna().any())]


def front_text(
    front: pd.DataFrame, others: Sequence[str] = (), *, exact: bool = False
) -> Mapping[str, list[str]]:
    """Return a front's table as text, the columns by their headings.

    Args:
        front: the rows.
        others: metrics to show besides the usual ones, objectives and bounds.
        exact: write counts in full under headings in words, as on a page; else in short under the
            metrics' names, as on a terminal.
    """
    columns = {"trial": [str(trial) for trial in front["trial"]]}
    for name in shown_metrics(front, others):
        metric = metric_named(name)
        write, heading = (metric.text, metric.title) if exact else (metric.short, name)
        values = front[name].astype(object)
        columns[heading] = [write(math.nan if pd.isna(value) else value) for value in values]
    return columns


class Volume(NamedTuple):
    """A run's hypervolume as a fraction of an ideal model's, or why there is none."""

    value: float | None
    reason: str = ""
    """Empty where there is a value."""

    @property
    def words(self) -> str:
        """The hypervolume, or that there is none and why."""
        if self.value is None:
            return f"no hypervolume: {self.reason}"
        return f"relative hypervolume {self.value:.4f}"


def relative_hypervolume(trials: pd.DataFrame) -> Volume:
    """Return a run's hypervolume, a fraction of that of a model with ideal objectives."""
    reference = trials.pareto.reference
    for metric, way in trials.pareto.objectives.items():
        if metric not in reference:
            side = "max" if way == "min" else "min"
            return Volume(None, f"{metric} has no reference; add --{side} {metric}=VALUE")
        if metric_named(metric).ideal(way) is None:
            return Volume(None, f"{metric} has no best value")
    try:
        return Volume(float(trials.pareto.hypervolume(relative=True)))
    except ConfigError as error:
        return Volume(None, str(error))
