"""The `.pareto` accessor of a DataFrame of trials: its front, hypervolume and best models."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from castling.errors import ConfigError
from reports.pareto import (
    Mask,
    Points,
    dominated,
    hypervolume,
    nondominated,
    running_hypervolume,
)
from reports.records import Direction, Objective, TrialState
from space.budget import Budget, parse_size


DEFAULT_OBJECTIVES: dict[str, Direction] = {"top1": "max", "macs": "min"}
PERFECT: dict[str, float] = {"top1": 1.0, "top1_branch": 1.0}
"""Best conceivable value of the metrics that are maximised; of a minimised one it is 0."""


@pd.api.extensions.register_dataframe_accessor("pareto")
class ParetoAccessor:
    """Fronts of a DataFrame of trials, as `reports.load` returns it.

    Only fully trained trials count: state trained, all planned epochs, within the budget, every
    objective finite. Objectives, budget and reference are those of the run, kept in the frame's
    `attrs`. Where pandas has lost these, as `concat` of different runs does, the objectives are
    top1 up and MACs down, there is no budget, and the reference must be given.

    Example:
        ```python
        trials = reports.load("runs/digits")
        trials.pareto.front()[["trial", "top1", "macs"]]
        trials.pareto.best(max_macs="1.2M").trial
        ```
    """

    def __init__(self, trials: pd.DataFrame) -> None:
        self._trials = trials

    @property
    def objectives(self) -> dict[str, Direction]:
        """The run's objectives, or the usual two."""
        return self._objectives(None)

    def trained(
        self,
        *,
        objectives: Mapping[str, Direction] | None = None,
        budget: Budget | None = None,
    ) -> pd.DataFrame:
        """Return the trials that count: fully trained, within the budget, measured."""
        return self._trials[self._eligible(self._objectives(objectives), budget)]

    def front(
        self,
        *,
        objectives: Mapping[str, Direction] | None = None,
        budget: Budget | None = None,
    ) -> pd.DataFrame:
        """Return the trials that no other dominates, by rising first minimised objective.

        Of trials that are equal in every objective the first is kept.

        Args:
            objectives: direction of each metric, such as {"top1": "max", "params": "min"}.
            budget: bounds on the models, instead of the run's.
        """
        goals = self._objectives(objectives)
        trained = self.trained(objectives=goals, budget=budget)
        front = trained[nondominated(_points(trained, goals), [*goals.values()])]
        by = next((metric for metric, way in goals.items() if way == "min"), next(iter(goals)))
        return front.sort_values(by, ascending=goals[by] == "min", kind="stable")

    def dominated(
        self,
        *,
        objectives: Mapping[str, Direction] | None = None,
        budget: Budget | None = None,
    ) -> pd.Series:
        """Return for every trial whether it counts and some other that counts dominates it."""
        goals = self._objectives(objectives)
        mask = self._eligible(goals, budget)
        mask[mask] = dominated(_points(self._trials[mask], goals), [*goals.values()])
        return pd.Series(mask, index=self._trials.index, name="dominated")

    def hypervolume(
        self,
        *,
        relative: bool = False,
        objectives: Mapping[str, Direction] | None = None,
        budget: Budget | None = None,
        reference: Mapping[str, float] | None = None,
    ) -> float:
        """Return the volume of objective space that the front dominates.

        Args:
            relative: as a fraction, 0 to 1, of what a model with perfect accuracy at no cost has.
            objectives: direction of each metric.
            budget: bounds on the models, instead of the run's.
            reference: worst value of each metric that still counts.

        Raises:
            ConfigError: when the reference is unknown, or a metric has no ideal value.
        """
        goals = self._objectives(objectives)
        points = _points(self.trained(objectives=goals, budget=budget), goals)
        return hypervolume(points, *self._box(goals, reference, relative=relative))

    def progress(
        self,
        *,
        relative: bool = False,
        objectives: Mapping[str, Direction] | None = None,
        budget: Budget | None = None,
        reference: Mapping[str, float] | None = None,
    ) -> "pd.Series[float]":
        """Return the hypervolume after each fully trained trial, in the order they finished.

        The arguments and errors are those of `hypervolume`; the index is that of the trials.
        """
        done = self.trained(objectives=objectives, budget=budget)
        done = done.sort_values(["finished_at", "trial"], kind="stable")
        goals = self._objectives(objectives)
        box = self._box(goals, reference, relative=relative)
        volumes = running_hypervolume(_points(done, goals), *box)
        return pd.Series(volumes, index=done.index, name="hypervolume")

    def best(
        self,
        *,
        max_macs: str | int | None = None,
        max_params: str | int | None = None,
        max_latency_ms: float | None = None,
    ) -> pd.Series:
        """Return the most accurate fully trained trial within the limits; of equals the cheapest.

        Args:
            max_macs: multiply-accumulates per image, such as 1_200_000 or "1.2M".
            max_params: parameters.
            max_latency_ms: milliseconds per image by the run's table, if it has one.

        Raises:
            ConfigError: when no trial is within the limits; it names the cheapest one.
        """
        limits = Budget(
            max_macs=None if max_macs is None else parse_size(max_macs, "max_macs"),
            max_params=None if max_params is None else parse_size(max_params, "max_params"),
            max_latency_ms=max_latency_ms,
        )
        trained = self.trained(objectives={"top1": "max"})
        fitting = trained[_within(trained, limits)]
        if fitting.empty:
            raise _nothing_fits(trained, limits)
        order = ["top1", "macs", "params"]
        return fitting.sort_values(order, ascending=[False, True, True], kind="stable").iloc[0]

    def _objectives(self, given: Mapping[str, Direction] | None) -> dict[str, Direction]:
        if given is None and "objectives" not in self._trials.attrs:
            return DEFAULT_OBJECTIVES
        pairs: Iterable[tuple[str, object]] = (
            [(item["metric"], item["direction"]) for item in self._trials.attrs["objectives"]]
            if given is None
            else given.items()
        )
        goals = [Objective.from_data({"metric": name, "direction": way}) for name, way in pairs]
        if not goals:
            raise ConfigError("objectives", "must name at least one metric")
        return {goal.metric: goal.direction for goal in goals}

    def _box(
        self, goals: Mapping[str, Direction], given: Mapping[str, float] | None, *, relative: bool
    ) -> tuple[list[float], list[Direction], list[float] | None]:
        """Return the reference point, the directions and, for a relative volume, the ideal."""
        reference = self._trials.attrs.get("reference", {}) if given is None else given
        unknown = [metric for metric in goals if metric not in reference]
        if unknown:
            example = "{" + ", ".join(f'"{metric}": ...' for metric in goals) + "}"
            fix = f"pass reference={example}, the worst values that count"
            raise ConfigError("reference", f"is not known for {', '.join(unknown)}", fix=fix)
        corner = [float(reference[metric]) for metric in goals]
        return corner, [*goals.values()], _ideal(goals) if relative else None

    def _eligible(self, goals: Mapping[str, Direction], budget: Budget | None) -> Mask:
        bounds = budget or Budget.from_data(self._trials.attrs.get("budget", {}))
        trained = (_known(self._trials, "state") == TrialState.TRAINED).to_numpy(dtype=np.bool_)
        full = _numbers(self._trials, "epochs") == _numbers(self._trials, "epochs_planned")
        finite = np.isfinite(_points(self._trials, goals)).all(axis=1)
        mask: Mask = trained & full & finite & _within(self._trials, bounds)
        return mask


def _known(trials: pd.DataFrame, name: str) -> pd.Series:
    if name not in trials.columns:
        fix = "start from the columns of reports.load(RUN)"
        raise ConfigError("trials", f"must have a column {name!r}", fix=fix)
    return trials[name]


def _numbers(trials: pd.DataFrame, name: str) -> Points:
    column = _known(trials, name)
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise ConfigError(name, "must be a column of numbers", str(column.dtype)) from None


def _points(trials: pd.DataFrame, goals: Mapping[str, Direction]) -> Points:
    return np.column_stack([_numbers(trials, metric) for metric in goals])


def _within(trials: pd.DataFrame, bounds: Budget) -> Mask:
    mask = np.ones(len(trials), dtype=np.bool_)
    for name, limit in (
        ("macs", bounds.max_macs),
        ("params", bounds.max_params),
        ("latency_ms", bounds.max_latency_ms),
    ):
        if limit is not None:
            mask &= _numbers(trials, name) <= limit
    return mask


def _ideal(goals: Mapping[str, Direction]) -> list[float]:
    for metric, way in goals.items():
        if way == "max" and metric not in PERFECT:
            raise ConfigError(
                "relative", f"needs a best value, {metric} has none", fix="leave out"
            )
    return [PERFECT[metric] if way == "max" else 0.0 for metric, way in goals.items()]


def _nothing_fits(trained: pd.DataFrame, limits: Budget) -> ConfigError:
    if trained.empty:
        fix = "wait for the search, or resume it"
        return ConfigError("trials", "no model is fully trained within the budget yet", fix=fix)
    given = {name: limit for name, limit in limits.to_data().items() if limit is not None}
    by = "macs" if "max_macs" in given else "params"
    cheapest = trained.sort_values(by, kind="stable").iloc[0]
    cost = f"{cheapest['macs']:,} MACs and {cheapest['params']:,} parameters"
    rule = f"must admit a trained model, the cheapest is trial {cheapest['trial']} with {cost}"
    return ConfigError(
        " and ".join(given), rule, ", ".join(f"{size:,}" for size in given.values())
    )
