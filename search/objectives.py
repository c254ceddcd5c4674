"""What a search trades off: metrics with their directions, values for the sampler, a reference."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan

from optuna.study import StudyDirection

from castling.errors import ConfigError
from reports.records import Direction, Objective, Record
from space.budget import Budget
from space.feasible import Quantity, max_cost_point, point_cost
from space.known import KNOWN
from space.point import Space


METRICS = ("top1", "top1_branch", "loss", "train_seconds", "images_per_s", *KNOWN)
"""What a trial reports and a search may trade off."""

DIRECTIONS: dict[Direction, StudyDirection] = {
    "max": StudyDirection.MAXIMIZE,
    "min": StudyDirection.MINIMIZE,
}
"""Optuna's words for the directions."""


def check_objectives(objectives: Sequence[Objective]) -> None:
    """Raise ConfigError unless there are objectives, each reported and named once."""
    metrics = [goal.metric for goal in objectives]
    if not metrics:
        raise ConfigError("objectives", "must name at least one metric", fix="such as top1: max")
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError("objectives", f"must be among {', '.join(METRICS)}", metric)
        if metrics.count(metric) > 1:
            raise ConfigError("objectives", "must not repeat a metric", metric)


def parse_objectives(given: Iterable[str]) -> list[dict[str, str]]:
    """Return the objectives of METRIC:DIRECTION arguments, as plain data.

    Raises:
        ConfigError: when one is not written so.
    """
    parsed = []
    for text in given:
        metric, colon, direction = text.partition(":")
        if not colon or direction not in {"max", "min"}:
            rule = "must be METRIC:max or METRIC:min, such as top1:max"
            raise ConfigError("--objective", rule, text)
        parsed.append({"metric": metric, "direction": direction})
    return parsed


def values_of(record: Record, objectives: Sequence[Objective]) -> list[float]:
    """Return a record's metrics in the order of the objectives."""
    return [float(getattr(record, goal.metric)) for goal in objectives]


def worst_values(
    record: Record, objectives: Sequence[Objective], finished: Iterable[Record]
) -> list[float]:
    """Return what a sampler is told of a refused proposal: its costs, and else the worst seen."""
    trained = [*finished]
    values = []
    for goal in objectives:
        if goal.metric in KNOWN:
            values.append(float(getattr(record, goal.metric)))
        elif goal.direction == "max":
            values.append(0.0)
        else:
            seen = [getattr(other, goal.metric) for other in trained]
            values.append(max((value for value in seen if not isnan(value)), default=1.0))
    return values


def reference_point(
    space: Space, budget: Budget, objectives: Sequence[Objective]
) -> Mapping[str, float]:
    """Return the worst value of each objective that counts, of those that have one.

    A count or a latency to be low counts up to its bound, MACs and parameters without a bound up
    to those of the dearest point; a metric to be high counts from 0.
    """
    found = {}
    for goal in objectives:
        bound = getattr(budget, f"max_{goal.metric}", None)
        if goal.direction == "max":
            found[goal.metric] = 0.0
        elif bound is not None:
            found[goal.metric] = float(bound)
        elif goal.metric in {"macs", "params"}:
            quantity: Quantity = "macs" if goal.metric == "macs" else "params"
            spent = point_cost(space, max_cost_point(space, quantity))
            found[goal.metric] = float(getattr(spent, quantity))
    return found
