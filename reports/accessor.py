"""The `.pareto` accessor of a DataFrame of trials: its front, hypervolume and best models."""

from collections.abc import Mapping
from typing import Unpack

import numpy as np
import pandas as pd

from castling.errors import ConfigError
from castling.metrics import Direction, amounts, metric_named
from reports.choice import compared, knee_place, progress_table, reached_row
from reports.pareto import Mask, Points, dominated, hypervolume, nondominated, running_hypervolume
from reports.records import Objective, TrialState
from space.budget import Bound, Budget, Limits


DEFAULT_OBJECTIVES: dict[str, Direction] = {"top1": "max", "macs": "min"}


@pd.api.extensions.register_dataframe_accessor("pareto")
class ParetoAccessor:
    """Fronts of a DataFrame of trials, as `reports.load` returns it.

    Only fully trained trials count: state trained, all planned epochs, within the budget, every
    objective finite. Objectives, budget and reference are those of the run, from the frame's
    `attrs`. Where pandas has lost these, as `concat` of different runs does, the objectives are
    top1 up and MACs down, there is no budget, and `reference` must be passed. Rows may be
    filtered, sorted, repeated or indexed by a column; a method names the column that it lacks.

    Example:
        ```python
        trials = reports.load("runs/digits")
        trials.pareto.front()[["trial", "top1", "macs"]]
        trials.pareto.best(max_macs="1.2M", max={"train_seconds": 60}).trial
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

        Of trials that are equal in every objective only the first is returned.

        Args:
            objectives: direction of each metric, such as {"top1": "max", "params": "min"}.
            budget: bounds on the models, instead of the run's.
        """
        goals = self._objectives(objectives)
        trained = self.trained(objectives=goals, budget=budget)
        front = trained[nondominated(_points(trained, goals), [*goals.values()])]
        by = next((metric for metric, way in goals.items() if way == "min"), next(iter(goals)))
        values = _numbers(front, by)
        return front.iloc[np.argsort(values if goals[by] == "min" else -values, kind="stable")]

    def dominated(
        self,
        *,
        objectives: Mapping[str, Direction] | None = None,
        budget: Budget | None = None,
    ) -> pd.Series:
        """Return for every trial whether it is dominated; only trials that count are compared."""
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
            relative: return the fraction, 0 to 1, of the volume of a perfect model at no cost.
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
        done = done.iloc[_order_of_finishing(done)]
        goals = self._objectives(objectives)
        box = self._box(goals, reference, relative=relative)
        volumes = running_hypervolume(_points(done, goals), *box)
        return pd.Series(volumes, index=done.index, name="hypervolume")

    def within(self, **limits: Unpack[Limits]) -> pd.DataFrame:
        """Return the trials within limits, with the limits added to the frame's budget.

        If the run has no reference for a limited metric, the limit becomes the reference.

        Args:
            limits: `max_macs`, `max_params`, `max_latency_ms`, `max` and `min`; see `Limits`.

        Raises:
            ConfigError: when a limit is malformed, or the frame lacks its column.
        """
        bounds = Budget.of(**limits)
        trials = self._trials[_within(self._trials, bounds)]
        values = {bound.metric.name: float(bound.value) for bound in bounds.bounds()}
        trials.attrs = {
            **self._trials.attrs,
            "budget": bounds.over(self.budget).to_data(),
            "reference": values | self.reference,
        }
        return trials

    def best(self, **limits: Unpack[Limits]) -> pd.Series:
        """Return the most accurate fully trained trial within the limits; of equals the cheapest.

        Args:
            limits: `max_macs`, `max_params`, `max_latency_ms`, `max` and `min`; see `Limits`.

        Raises:
            ConfigError: when no trial is within the limits; it names the cheapest one.
        """
        bounds = Budget.of(**limits)
        trained = self.trained(objectives={"top1": "max"})
        fitting = trained[_within(trained, bounds)]
        if fitting.empty:
            raise _nothing_fits(trained, bounds)
        keys = [_numbers(fitting, name) for name in ("params", "macs")]
        return fitting.iloc[np.lexsort([*keys, -_numbers(fitting, "top1")])[0]]

    def knee(self) -> pd.Series:
        """Return the front's member with the most gain for the least cost; see `knee_place`.

        Raises:
            ConfigError: when the front is empty.
        """
        front = self.front()
        if front.empty:
            raise _nothing_fits(front, Budget())
        return front.iloc[knee_place(_points(front, self.objectives), self.objectives)]

    def reached(self, level: float) -> "pd.Series[float]":
        """Return when a relative hypervolume was first reached, as trial, trials, epochs, hours.

        Raises:
            ConfigError: when it was not reached, or the hypervolume is not defined.
        """
        return reached_row(progress_table(self._trials), level)

    def compare(
        self, other: pd.DataFrame, names: tuple[str, str] = ("this", "other")
    ) -> pd.DataFrame:
        """Return whose best model wins at which budget; see `reports.choice.compared`.

        `attrs["hypervolume"]` has the relative hypervolume of each, with this run's reference.

        Raises:
            ConfigError: when the objectives of the two differ.
        """
        goals = self.objectives
        if goals != other.pareto.objectives:
            rule = "must be those of the other run"
            fix = "pass frames of runs with the same objectives"
            raise ConfigError(
                "objectives", rule, f"{[*goals]} and {[*other.pareto.objectives]}", fix
            )
        frames = dict(zip(names, (self._trials, other), strict=True))
        table = compared({name: each.pareto.front() for name, each in frames.items()}, goals)
        reference = self.reference if goals.keys() <= self.reference.keys() else None
        if reference is not None:
            table.attrs["hypervolume"] = {
                name: each.pareto.hypervolume(relative=True, reference=reference)
                for name, each in frames.items()
            }
        return table

    @property
    def budget(self) -> Budget:
        """The run's budget, none where pandas has lost it."""
        return Budget.from_data(self._trials.attrs.get("budget", {}), "attrs: budget")

    @property
    def reference(self) -> dict[str, float]:
        """The reference values of the run's objectives, for those that have one."""
        reference = self._trials.attrs.get("reference", {})
        try:
            return {str(metric): float(value) for metric, value in reference.items()}
        except (AttributeError, TypeError, ValueError):
            raise ConfigError(
                "attrs: reference", "must map metrics to numbers", reference
            ) from None

    def _objectives(self, chosen: Mapping[str, Direction] | None) -> dict[str, Direction]:
        if chosen is None and "objectives" not in self._trials.attrs:
            return DEFAULT_OBJECTIVES
        items: object = self._trials.attrs.get("objectives")
        if chosen is not None:
            items = [{"metric": name, "direction": way} for name, way in chosen.items()]
        if not items or not isinstance(items, list | tuple):
            raise ConfigError("objectives", "must name at least one metric", items or None)
        goals = [Objective.from_data(item, "objectives") for item in items]
        return {goal.metric: goal.direction for goal in goals}

    def _box(
        self, goals: Mapping[str, Direction], given: Mapping[str, float] | None, *, relative: bool
    ) -> tuple[list[float], list[Direction], list[float] | None]:
        """Return the reference point, the directions and, for a relative volume, the ideal."""
        reference = self.reference if given is None else given
        unknown = [metric for metric in goals if metric not in reference]
        if unknown:
            example = "{" + ", ".join(f'"{metric}": ...' for metric in goals) + "}"
            fix = f"pass reference={example}, the worst values that count"
            raise ConfigError("reference", f"is not known for {', '.join(unknown)}", fix=fix)
        corner = [float(reference[metric]) for metric in goals]
        return corner, [*goals.values()], _ideal(goals) if relative else None

    def _eligible(self, goals: Mapping[str, Direction], budget: Budget | None) -> Mask:
        bounds = self.budget if budget is None else budget
        trained = _known(self._trials, "state").isin([str(TrialState.TRAINED)]).to_numpy()
        full = _numbers(self._trials, "epochs") == _numbers(self._trials, "epochs_planned")
        finite = np.isfinite(_points(self._trials, goals)).all(axis=1)
        mask: Mask = trained & full & finite & _within(self._trials, bounds)
        return mask


def _known(trials: pd.DataFrame, name: str) -> pd.Series:
    """Return a column, or a level of the index of this name; ConfigError without exactly one."""
    if name not in trials.columns and name in trials.index.names:
        return pd.Series(trials.index.get_level_values(name), index=trials.index)
    if name not in trials.columns:
        fix = "start from the columns of reports.load(RUN)"
        raise ConfigError("trials", f"must have a column {name!r}", fix=fix)
    column: pd.Series | pd.DataFrame = trials[name]  # a frame, where columns share the name
    if isinstance(column, pd.DataFrame):
        rule = f"must have one column {name!r}, not {column.shape[1]}"
        raise ConfigError("trials", rule, fix="drop or rename the others")
    return column


def _order_of_finishing(trials: pd.DataFrame) -> list[int]:
    """Return the places of rows in the order in which the trials ended."""
    times = pd.to_datetime(
        _known(trials, "finished_at").array, utc=True, format="ISO8601", errors="coerce"
    )
    keys = pd.DataFrame({"time": times, "trial": _numbers(trials, "trial")})
    return [*keys.sort_values(["time", "trial"], kind="stable").index]


def _numbers(trials: pd.DataFrame, name: str) -> Points:
    column = _known(trials, name)
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise ConfigError(name, "must be a column of numbers", str(column.dtype)) from None


def _points(trials: pd.DataFrame, goals: Mapping[str, Direction]) -> Points:
    return np.column_stack([_numbers(trials, metric) for metric in goals])


def _within(trials: pd.DataFrame, limits: Budget) -> Mask:
    """Return which rows are within a budget."""
    mask = np.ones(len(trials), dtype=np.bool_)
    for bound in limits.bounds():
        values = _numbers(trials, bound.metric.name)
        within = (bound.excess(float(value)) <= 0.0 for value in values)
        mask &= np.fromiter(within, dtype=np.bool_, count=len(values))
    return mask


def _ideal(goals: Mapping[str, Direction]) -> list[float]:
    ideal = []
    for metric, way in goals.items():
        best = metric_named(metric).ideal(way)
        if best is None:
            rule = f"needs a best value, {metric} has none"
            raise ConfigError("relative", rule, fix="leave out")
        ideal.append(best)
    return ideal


def _nothing_fits(trained: pd.DataFrame, limits: Budget) -> ConfigError:
    if trained.empty:
        fix = "wait for the search, or resume it"
        return ConfigError("trials", "no model is fully trained within the budget yet", fix=fix)
    bounds: list[Bound] = [*limits.bounds()]
    first = bounds[0]
    excesses = [first.excess(float(value)) for value in _numbers(trained, first.metric.name)]
    place = int(np.argmin(excesses))
    names = dict.fromkeys(["macs", "params", *(bound.metric.name for bound in bounds)])
    values = {name: float(_numbers(trained, name)[place]) for name in names}
    what = "cheapest" if first.metric.is_cost else "nearest"
    rule = (
        f"must admit a trained model, the {what} is trial {_known(trained, 'trial').iloc[place]} "
        f"with {' and '.join(amounts(values, names))}"
    )
    return ConfigError(" and ".join(bound.field for bound in bounds), rule, limits.words())
