"""The objectives of a search: metrics with directions, their values, the reference point."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from optuna.study import StudyDirection

from castling.config import RunConfig
from castling.errors import ConfigError
from castling.metrics import BRANCH, METRICS, Direction
from reports.records import Objective, Record, check_recorded
from space.budget import Budget
from space.feasible import COUNTED, max_cost_point, point_cost
from space.point import Space


DIRECTIONS: dict[Direction, StudyDirection] = {
    "max": StudyDirection.MAXIMIZE,
    "min": StudyDirection.MINIMIZE,
}
"""Optuna's words for the directions."""


def check_objectives(objectives: Sequence[Objective]) -> None:
    """Raise ConfigError unless there are objectives, each recorded and named once."""
    metrics = [goal.metric for goal in objectives]
    if not metrics:
        raise ConfigError("objectives", "must name at least one metric", fix="such as top1: max")
    for metric in metrics:
        check_recorded(metric)
        if metrics.count(metric) > 1:
            raise ConfigError("objectives", "must not repeat a metric", metric)


def check_measured(objectives: Sequence[Objective], budget: Budget, run: RunConfig) -> None:
    """Raise ConfigError when a metric of tasks is traded off or bounded, but not measured."""
    from castling.tasks import TASKS  # only here: it imports torch

    spec = TASKS[run.task]
    measured = spec.measured(run.model.num_classes)
    of_tasks = {name for task in TASKS.values() for name in task.metrics} | {"top1"}
    wanted = {goal.metric: "objectives" for goal in objectives}
    wanted |= {bound.metric.name: f"budget.{bound.field}" for bound in budget.bounds()}
    for metric, field in wanted.items():
        name = metric.removesuffix(BRANCH)
        if name in of_tasks and name not in measured:
            rule = (
                f"must be measured by the task {run.task} with {run.model.num_classes} classes: "
                f"{', '.join(measured)}"
            )
            fix = f"such as --objective {spec.primary}:{spec.metrics[spec.primary]}"
            raise ConfigError(field, rule, metric, fix)


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
    """Return a record's metrics in the order of the objectives, NaN where there is none."""
    return [float(record.value(goal.metric)) for goal in objectives]


def worst_values(
    record: Record, objectives: Sequence[Objective], finished: Iterable[Record]
) -> list[float]:
    """Return the values of a rejected proposal for the sampler: its costs, else the worst seen."""
    trained = [*finished]
    values = []
    for goal in objectives:
        worst = METRICS[goal.metric].limit(goal.direction)
        if goal.is_cost:
            values.append(float(record.value(goal.metric)))
        elif worst is not None:
            values.append(worst)
        else:
            seen = [goal.sign * other.value(goal.metric) for other in trained]
            values.append(goal.sign * max(filter(isfinite, seen), default=goal.sign))
    return values


def reference_point(
    space: Space, budget: Budget, objectives: Sequence[Objective]
) -> Mapping[str, float]:
    """Return the reference value of each objective that has one.

    It is the bound on the metric; without a bound the worst possible value: 0 for a metric to
    maximise, and for a count that of the most expensive point.
    """
    found = {}
    for goal in objectives:
        bound = budget.bound(goal.metric, "max" if goal.direction == "min" else "min")
        worst = METRICS[goal.metric].limit(goal.direction)
        if bound is not None:
            found[goal.metric] = float(bound)
        elif worst is not None:
            found[goal.metric] = worst
        for quantity in COUNTED:
            if quantity == goal.metric and quantity not in found:
                spent = point_cost(space, max_cost_point(space, quantity))
                found[quantity] = float(getattr(spent, quantity))
    return found
