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
from reports.manifest import Manifest
from reports.records import CONFIG_ATTRIBUTE, RECORD_ATTRIBUTE, Record, TrialState
from reports.study import read_trials, study_place


MOST_CELLS = 20_000_000
"""Trials times dimensions of a table: a short record may name a dimension that no other has."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the results table."""

    name: str
    dtype: Any
    """Whatever pandas takes for `dtype=`."""
    unit: str
    """What its numbers count; empty where they count nothing."""
    description: str


STATES = pd.CategoricalDtype([str(state) for state in TrialState])
INSTANT = pd.DatetimeTZDtype("us", "UTC")

COLUMNS: tuple[Column, ...] = (
    Column("trial", "int64", "", "number of the proposal in the study"),
    Column("state", STATES, "", "how far it came: " + ", ".join(TrialState)),
    Column("macs", "int64", "MACs", "multiply-accumulates per image of the castled model"),
    Column("params", "int64", "parameters", "parameters of the castled model"),
    Column("training_macs", "int64", "MACs", "the same of the forward pass with the branch alive"),
    Column("config_id", "string", "", "hash of the run's config, equal for equal trainings"),
    Column("latency_ms", "float64", "ms", "time of one image by the table; missing without one"),
    Column("top1", "float64", "fraction", "validation accuracy of the castled model"),
    Column("top1_branch", "float64", "fraction", "validation accuracy with the auxiliary branch"),
    Column("loss", "float64", "nats", "mean training loss of the last epoch"),
    Column("mask_density", "float64", "fraction", "mask entries that survived the last epoch"),
    Column("epochs", "int64", "epochs", "epochs trained"),
    Column("epochs_planned", "int64", "epochs", "epochs of a full training"),
    Column("train_seconds", "float64", "s", "wall-clock time of training, without waiting"),
    Column("images_per_s", "float64", "images/s", "training throughput of the last epoch"),
    Column("started_at", INSTANT, "UTC", "when training started"),
    Column("finished_at", INSTANT, "UTC", "when it ended; missing while running"),
    Column("replay_of", "Int64", "", "trial whose result a replayed proposal used"),
    Column("reason", "string", "", "why the trial failed or was refused"),
    Column("fidelity", "float64", "fraction", "epochs / epochs_planned"),
)
"""The fixed columns in order; one column per searched dimension follows them."""


def load(run: str | Path, *, refused: bool = False) -> pd.DataFrame:
    """Return a run's trials, one row each, in the order they were proposed.

    The run is only read: it may be on a read-only disk, or being written by a live search. The
    rows have a plain RangeIndex (the trial's number is a column), the columns are COLUMNS and then
    the searched dimensions, missing where a trial does not depend on one. `attrs` holds the run's
    budget, objectives and reference point as plain data, which is what `.pareto` starts from.

    Args:
        run: folder of the run, the `--out` of a search.
        refused: also return the proposals over budget, which were never trained.

    Raises:
        RunFolderError: when the folder is no run or has no study.
        RecordError: when the study or a record in it is damaged.
    """
    folder = Path(run)
    manifest = Manifest.read(folder)
    place = study_place(folder, manifest)
    records = [
        Record.from_data(trial.user_attrs[RECORD_ATTRIBUTE], f"{place}, trial {trial.number}")
        for trial in read_trials(folder, manifest)
        if RECORD_ATTRIBUTE in trial.user_attrs
    ]
    try:
        frame = tabulate(records)
    except (ValueError, OverflowError) as error:
        raise RecordError(place, str(error)) from None
    if not refused:
        frame = frame[frame["state"] != TrialState.REFUSED].reset_index(drop=True)
    data = manifest.to_data()
    frame.attrs.update({name: data[name] for name in ("budget", "objectives", "reference")})
    return frame


def load_config(run: str | Path, trial: int) -> dict[str, Any]:
    """Return the complete training config of a trial as plain data, ready for RunConfig.from_data.

    Raises:
        ConfigError: when the run has no such trial.
        RunFolderError: when the folder is no run or has no study.
        RecordError: when the study is damaged or the trial has no config.
    """
    folder = Path(run)
    manifest = Manifest.read(folder)
    found = _numbered(read_trials(folder, manifest), trial)
    config = found.user_attrs.get(CONFIG_ATTRIBUTE)
    if not isinstance(config, dict):
        raise RecordError(f"{study_place(folder, manifest)}, trial {trial}", "it has no config")
    return config


def _numbered(trials: Sequence[FrozenTrial], number: int) -> FrozenTrial:
    for trial in trials:
        if trial.number == number:
            return trial
    known = f"0 to {len(trials) - 1}" if trials else "none yet"
    raise ConfigError("trial", f"must be a trial of the run ({known})", number)


def tabulate(records: Sequence[Record]) -> pd.DataFrame:
    """Return records as a DataFrame: COLUMNS, then the dimensions in natural order."""
    columns = {column.name: _column(column, records) for column in COLUMNS}
    dimensions = {name for record in records for name in record.point}
    if len(records) * len(dimensions) > MOST_CELLS:
        raise ValueError(f"{len(dimensions):,} dimensions in {len(records):,} trials")
    for name in sorted(dimensions, key=natural_order):
        columns[name] = dimension_column([record.point.get(name) for record in records])
    return pd.DataFrame(columns, index=pd.RangeIndex(len(records)))


def _column(column: Column, records: Sequence[Record]) -> "pd.Series[Any]":
    if column.name == "fidelity":
        return pd.Series([_fidelity(record) for record in records], dtype=column.dtype)
    values = [getattr(record, column.name) for record in records]
    if column.dtype is INSTANT:
        return pd.Series(pd.to_datetime(values, utc=True, format="ISO8601"), dtype=INSTANT)
    return pd.Series(values, dtype=column.dtype)


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
