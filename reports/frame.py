"""A run's records as one typed pandas DataFrame, a row per trial; the columns are defined here."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from castling.errors import ConfigError, RecordError
from castling.metrics import NAME, OF_TASKS, metric_named, recorded_metrics
from castling.untrusted.plain_yaml import read_yaml
from reports.manifest import Manifest
from reports.records import (
    CONFIG_ATTRIBUTE,
    MANIFEST_FILE,
    RECORD_ATTRIBUTE,
    Record,
    TrialState,
    is_training,
)
from reports.study import read_trials, study_place


MOST_CELLS = 20_000_000
"""Trials times columns of a table: a short record may name a dimension that no other has."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the results table."""

    name: str
    dtype: Any
    """A `dtype` of pandas."""
    unit: str
    """The unit of its numbers; empty if they have none."""
    description: str


STATES = pd.CategoricalDtype([str(state) for state in TrialState])
INSTANT = pd.DatetimeTZDtype("us", "UTC")


def _metric_column(name: str, dtype: str | None = None) -> Column:
    metric = metric_named(name)
    return Column(name, dtype or metric.dtype, metric.unit, metric.description)


COLUMNS: tuple[Column, ...] = (
    Column("trial", "int64", "", "number of the proposal in the study"),
    Column("state", STATES, "", "how far it came: " + ", ".join(TrialState)),
    *map(_metric_column, ("macs", "params", "training_macs")),
    Column("config_id", "string", "", "hash of the run's config, equal for equal trainings"),
    *map(_metric_column, ("latency_ms", "top1", "top1_branch", "loss", "mask_density")),
    Column("epochs", "int64", "epochs", "epochs trained"),
    Column("epochs_planned", "int64", "epochs", "epochs of a full training"),
    *map(_metric_column, ("train_seconds", "images_per_s")),
    Column("started_at", INSTANT, "UTC", "when training started"),
    Column("finished_at", INSTANT, "UTC", "when it ended; missing while running"),
    Column("replay_of", "Int64", "", "trial whose result a replayed proposal used"),
    Column("reason", "string", "", "why the trial failed or was refused"),
    Column("fidelity", "float64", "fraction", "epochs / epochs_planned"),
)
"""The fixed columns in order; a column per metric of a plugin and then one per searched dimension
follows them."""


def metric_columns(recorded: Iterable[str] = ()) -> list[Column]:
    """Return the columns of the metrics of plugins and of those of tasks, by name.

    These are the metrics of installed packages, and other metrics in the records of trials. Counts
    are of pandas' nullable type: older trials lack them.
    """
    fixed = {column.name for column in COLUMNS}
    always = {metric.name for metric in recorded_metrics()} - OF_TASKS
    names = always | {name for name in recorded if not metric_named(name).curve_only}
    kinds = {"int64": "Int64"}
    return [
        _metric_column(name, kinds.get(metric_named(name).dtype)) for name in sorted(names - fixed)
    ]


def load(run: str | Path, *, refused: bool = False) -> pd.DataFrame:
    """Return a run's trials, one row each, in the order they were proposed.

    The run is only read: it may be on a read-only disk, or being written by a live search. The
    rows have a plain RangeIndex (the trial's number is a column), the columns are COLUMNS, then
    metrics of plugins, then the searched dimensions, missing where a trial does not depend on one.
    `attrs` holds the run's budget, objectives and reference point as plain data, which is what
    `.pareto` starts from, and its folder.

    Args:
        run: folder of the run, the `--out` of a search.
        refused: also return the proposals over budget, which were never trained.

    Raises:
        RunFolderError: when the folder is no run or has no study.
        RecordError: when the study or a record in it is damaged.
    """
    folder = Path(run)
    manifest = Manifest.read(folder)
    return frame_of(folder, manifest, read_trials(folder, manifest), refused=refused)


def frame_of(
    folder: Path, manifest: Manifest, stored: Sequence[FrozenTrial], *, refused: bool
) -> pd.DataFrame:
    """Return the table of a study's trials; see `load`."""
    place = study_place(folder, manifest)
    records = [
        Record.from_data(trial.user_attrs[RECORD_ATTRIBUTE], f"{place}, trial {trial.number}")
        for trial in stored
        if RECORD_ATTRIBUTE in trial.user_attrs
    ]
    try:
        frame = tabulate(records, metrics=[goal.metric for goal in manifest.objectives])
    except (ValueError, TypeError, OverflowError) as error:
        raise RecordError(place, str(error)) from None
    if not refused:
        frame = frame[frame["state"] != TrialState.REFUSED].reset_index(drop=True)
    data = manifest.to_data()
    frame.attrs.update({name: data[name] for name in ("budget", "objectives", "reference")})
    frame.attrs["run"] = str(folder)
    return frame


def load_configs(run: str | Path) -> dict[int, dict[str, Any]]:
    """Return the training config of every trial that has one, as plain data, by its number.

    The folder of `castling train` has one trial, number 0.

    Raises:
        RunFolderError: when the folder is no run or has no study.
        RecordError: when the study is damaged.
    """
    folder = Path(run)
    if is_training(folder):
        config = read_yaml(folder / MANIFEST_FILE)
        return {0: config} if isinstance(config, dict) else {}
    return configs_of(read_trials(folder, Manifest.read(folder)))


def configs_of(stored: Sequence[FrozenTrial]) -> dict[int, dict[str, Any]]:
    """Return the training configs of a study's trials, by their number."""
    configs = {trial.number: trial.user_attrs.get(CONFIG_ATTRIBUTE) for trial in stored}
    return {number: config for number, config in configs.items() if isinstance(config, dict)}


def load_config(run: str | Path, trial: int) -> dict[str, Any]:
    """Return the complete training config of a trial as plain data, ready for RunConfig.from_data.

    Raises:
        ConfigError: when the run has no such trial, or never began it.
        RunFolderError: when the folder is no run or has no study.
        RecordError: when the study is damaged.
    """
    folder = Path(run)
    manifest = Manifest.read(folder)
    stored = _numbered(read_trials(folder, manifest), trial)
    config = stored.user_attrs.get(CONFIG_ATTRIBUTE)
    if not isinstance(config, dict):
        rule = "must be one that was begun: this one was over budget, or no model at all"
        raise ConfigError("trial", rule, trial)
    return config


def _numbered(trials: Sequence[FrozenTrial], number: int) -> FrozenTrial:
    for trial in trials:
        if trial.number == number:
            return trial
    numbers = f"0 to {len(trials) - 1}" if trials else "none yet"
    raise ConfigError("trial", f"must be a trial of the run ({numbers})", number)


def tabulate(
    records: Sequence[Record], *, dimensions: bool = True, metrics: Iterable[str] = ()
) -> pd.DataFrame:
    """Return records as a DataFrame: COLUMNS, metrics of plugins, dimensions in natural order.

    Args:
        records: a row each.
        dimensions: whether there are columns of the searched dimensions.
        metrics: that have a column even if no record has them, such as objectives.
    """
    others = metric_columns({*metrics, *(name for record in records for name in record.metrics)})
    names = {name for record in records for name in record.point} if dimensions else set()
    if len(records) * (len(names) + len(others)) > MOST_CELLS:
        raise ValueError(f"{len(names) + len(others):,} dimensions in {len(records):,} trials")
    columns = {column.name: _column(column, records) for column in (*COLUMNS, *others)}
    for name in sorted(names, key=natural_order):
        columns[name] = dimension_column([record.point.get(name) for record in records])
    return pd.DataFrame(columns, index=pd.RangeIndex(len(records)))


def _column(column: Column, records: Sequence[Record]) -> "pd.Series[Any]":
    if column.name == "fidelity":
        return pd.Series([_fidelity(record) for record in records], dtype=column.dtype)
    if column.name not in Record.model_fields:
        missing = None if column.dtype == "Int64" else math.nan
        measured = [record.metrics.get(column.name, missing) for record in records]
        return pd.Series(measured, dtype=column.dtype)
    values = [getattr(record, column.name) for record in records]
    if column.dtype is INSTANT:
        return pd.Series(pd.to_datetime(values, utc=True, format="ISO8601"), dtype=INSTANT)
    return pd.Series(values, dtype=column.dtype)


def is_dimension(column: str) -> bool:
    """Return whether a column is one of a searched dimension: a path, which no metric is."""
    return not NAME.fullmatch(column)


def _fidelity(record: Record) -> float:
    return record.epochs / record.epochs_planned if record.epochs_planned else math.nan


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts model.blocks.2 before model.blocks.10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


DIMENSION_DTYPES: tuple[tuple[set[type], str], ...] = (
    ({bool}, "boolean"),
    ({int}, "Int64"),
    ({int, float}, "Float64"),
    ({str}, "string"),
)
"""The first row whose types include all of a dimension's values gives its column's dtype."""


def dimension_column(values: Iterable[Any]) -> "pd.Series[Any]":
    """Return a dimension's values with a nullable dtype that depends on their types alone."""
    listed = list(values)
    types = {type(value) for value in listed if value is not None}
    fitting = (dtype for known, dtype in DIMENSION_DTYPES if types and types <= known)
    dtype = next(fitting, "object")
    return pd.Series(listed, dtype=dtype)
