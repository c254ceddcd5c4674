"""Choices from a front: knee, time to a hypervolume, who wins at which budget."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from castling.errors import ConfigError
from castling.metrics import Direction, metric_named
from reports.pareto import Points


def knee_place(points: Points, metrics: Mapping[str, Direction]) -> int:
    """Return the place of a front's knee: of the most gain for the least cost.

    Every objective is scaled to 0 (the front's best) to 1 (its worst), counts and times as
    logarithms, and the knee is the member with the smallest sum. Of two objectives it is the
    member farthest from the line between the two ends (Das, On characterizing the "knee" of the
    Pareto curve, 1999).

    Args:
        points: (member, objective); at least one member.
        metrics: the objectives in the order of the columns.
    """
    scaled = np.empty_like(points)
    for column, (name, way) in enumerate(metrics.items()):
        values = points[:, column]
        if metric_named(name).ideal("min") == 0.0 and way == "min" and (values > 0).all():
            values = np.log(values)
        costs = values if way == "min" else -values
        spread = costs.max() - costs.min()
        scaled[:, column] = (costs - costs.min()) / (spread if spread > 0 else 1.0)
    return int(np.argmin(scaled.sum(axis=1)))


def reached_row(progress: pd.DataFrame, level: float) -> "pd.Series[float]":
    """Return the row of `progress_table` at which a relative hypervolume was first reached.

    Raises:
        ConfigError: when it was not, or is no fraction.
    """
    if not 0.0 < level <= 1.0:
        raise ConfigError("hypervolume", "must be above 0 and at most 1", level)
    reached = progress[progress["hypervolume"] >= level]
    if reached.empty:
        best = progress["hypervolume"].max() if len(progress) else 0.0
        raise ConfigError("hypervolume", f"must have been reached, {best:.4f} is the most", level)
    return reached.iloc[0]


def progress_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the relative hypervolume over trials, epochs and time.

    Returns:
        A row per fully trained trial in the order they finished. Columns trial, hypervolume (0 to
        1), trials (proposals that ended so far, stopped and failed ones included), epochs (trained
        so far in all of these; a repeated result costs none), hours (since the first start).

    Raises:
        ConfigError: when a metric has no reference or no ideal value.
    """
    volumes = trials.pareto.progress(relative=True)
    ended = trials[trials["finished_at"].notna()].sort_values("finished_at", kind="stable")
    fresh = ended["epochs"].where(ended["replay_of"].isna(), 0)
    hours = (ended["finished_at"] - trials["started_at"].min()).dt.total_seconds() / 3600.0
    spent = pd.DataFrame(
        {"trials": np.arange(1, len(ended) + 1), "epochs": fresh.cumsum(), "hours": hours},
        index=ended.index,
    )
    known = spent.reindex(volumes.index)
    table = pd.DataFrame(
        {"trial": trials.loc[volumes.index, "trial"], "hypervolume": volumes}
    ).join(known)
    return table.reset_index(drop=True)


def compared(
    fronts: Mapping[str, pd.DataFrame], objectives: Mapping[str, Direction]
) -> pd.DataFrame:
    """Return who has the best model at which budget of the first objective to minimise.

    Args:
        fronts: the front of each run, by its name.
        objectives: of all runs: one to maximise, at least one to minimise.

    Returns:
        A row per cost at which one of the fronts has a member, by rising cost: the cost, the best
        value of each run within it (NaN where it has none), and `winner`, a name or "equal".

    Raises:
        ConfigError: without an objective to maximise and one to minimise.
    """
    up = [name for name, way in objectives.items() if way == "max"]
    down = [name for name, way in objectives.items() if way == "min"]
    if not up or not down:
        raise ConfigError(
            "objectives", "must have one to maximise and one to minimise", objectives
        )
    cost, quality = down[0], up[0]
    levels = sorted({float(value) for front in fronts.values() for value in front[cost]})
    table = pd.DataFrame({cost: levels})
    for name, front in fronts.items():
        table[name] = [_best(front, cost, quality, level) for level in levels]
    table["winner"] = [_winner(row, [*fronts]) for _, row in table.iterrows()]
    return table


def _best(front: pd.DataFrame, cost: str, quality: str, level: float) -> float:
    within = front.loc[front[cost] <= level, quality]
    return float(within.max()) if len(within) else float("nan")


def _winner(row: "pd.Series[float]", names: Sequence[str]) -> str:
    values = [float(row[name]) for name in names]
    best = max(value for value in values if value == value)  # noqa: PLR0124 - NaN is unequal
    winners = [name for name, value in zip(names, values, strict=True) if value == best]
    return winners[0] if len(winners) == 1 else "equal"
