"""The contract between a search and its readers: files of a run folder, records of trials."""

import math
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from castling.config import Config
from castling.errors import ConfigError, RecordError, RunFolderError
from castling.metrics import (
    BUILT_IN,
    METRICS,
    NAME,
    OWN,
    Direction,
    metric_named,
    recorded_metrics,
)
from castling.untrusted.plain_yaml import LARGEST_NUMBER


MANIFEST_FILE, STUDY_FILE, STUDY_NAME = "config.yaml", "study.journal", "castling"
LOCK_FILE = ".lock"
DRIVER_FILE = "driver.json"
"""The file of what the last driver is to do, and since when."""
LATENCY_FILE = "latency.jsonl"
"""The file with the times of models' parts, if a search uses latency."""
CURVES_FOLDER, CHECKPOINTS_FOLDER, REPORT_FOLDER = "curves", "checkpoints", "report"
TRAINING_CURVE_FILE = "curve.jsonl"
"""The curve in the folder of a single training, which `castling train` writes."""
ERRORS_FOLDER = "errors"
"""The folder of the output and tracebacks of failed trials, NNNNN.txt each."""
FOLDERS = (CURVES_FOLDER, CHECKPOINTS_FOLDER, REPORT_FOLDER, ERRORS_FOLDER)
FILES = (MANIFEST_FILE, STUDY_FILE, LATENCY_FILE, LOCK_FILE, DRIVER_FILE)
RECORD_ATTRIBUTE, CONFIG_ATTRIBUTE, RUNGS_ATTRIBUTE = "record", "config", "rungs"
"""Keys of an Optuna trial's user attributes that hold the record and the decoded RunConfig."""


def is_training(folder: Path) -> bool:
    """Return whether a folder is that of a single training with a curve, and of no search."""
    return (folder / TRAINING_CURVE_FILE).is_file() and not (folder / CURVES_FOLDER).exists()


def curve_path(run: Path, trial: int, repeat: int | None = None) -> Path:
    """Return the file of a trial's metrics per epoch, a JSON object a line; or of one repeat's."""
    return run / CURVES_FOLDER / f"{_numbered(trial, repeat)}.jsonl"


def weights_path(run: Path, trial: int) -> Path:
    """Return the file of a trial's castled weights; it exists while the trial is on the front."""
    return run / CHECKPOINTS_FOLDER / f"{trial:05d}.safetensors"


def training_path(run: Path, trial: int, repeat: int | None = None) -> Path:
    """Return the file from which an interrupted trial goes on, or one of its repeats."""
    return run / CHECKPOINTS_FOLDER / f"{_numbered(trial, repeat)}.training.safetensors"


def _numbered(trial: int, repeat: int | None) -> str:
    return f"{trial:05d}" if repeat is None else f"{trial:05d}.{repeat}"


def error_path(run: Path, trial: int) -> Path:
    """Return the file of a trial's output and traceback; it stays if the trial fails."""
    return run / ERRORS_FOLDER / f"{trial:05d}.txt"


def trace_tail(run: Path, trial: int, lines: int = 12, most_bytes: int = 16_384) -> str:
    """Return the last lines of a failed trial's traceback; empty where the run kept none."""
    path = error_path(run, trial)
    if not path.is_file() or not path.resolve().is_relative_to(run.resolve()):
        return ""
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - most_bytes, 0))
        text = stream.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


class TrialState(StrEnum):
    """The state of a proposal."""

    RUNNING = "running"
    """Being trained, or interrupted and waiting for --resume."""
    TRAINED = "trained"
    """Trained for all its epochs."""
    STOPPED = "stopped"
    """Stopped early: its metrics are those of fewer epochs."""
    FAILED = "failed"
    """Training failed; `reason` says why, there are no metrics of training."""
    REPLAYED = "replayed"
    """Same model and training as an earlier trial, whose result is repeated."""
    REFUSED = "refused"
    """Over budget: never trained."""


class Objective(Config):
    """A recorded metric and the direction in which it is better."""

    metric: str
    """A name of `castling metrics`."""
    direction: Direction
    """Where it is better: max where it is high, min where it is low."""

    @property
    def sign(self) -> float:
        """The factor that turns the metric into one to minimise."""
        return -1.0 if self.direction == "max" else 1.0

    @property
    def is_cost(self) -> bool:
        """Whether the metric is computed before training."""
        return METRICS[self.metric].is_cost


def _plain_point(point: object) -> dict[str, Any]:
    """Return a point whose names and values a table can hold; ConfigError when it is none."""
    if not isinstance(point, Mapping):
        raise ConfigError("", "must be a mapping", point)
    for value in point.values():
        if not isinstance(value, bool | int | float | str | NoneType):
            raise ConfigError("", "must have plain values", value)
        if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
            raise ConfigError("", "must have whole numbers of at most 64 bits")
    return {
        str(_unicode(str(name))): _unicode(value) if isinstance(value, str) else value
        for name, value in point.items()
    }


def _unicode(text: object) -> object:
    """Return a text that can be written, since a path in it may not be UTF-8."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


def _finite_metrics(metrics: object) -> dict[str, int | float]:
    """Return the finite metrics; ConfigError when they are malformed."""
    if not isinstance(metrics, Mapping):
        raise ConfigError("", "must be a mapping of metrics", metrics)
    for name, value in metrics.items():
        if name not in OWN and (not NAME.fullmatch(str(name)) or name in NOT_METRICS):
            raise ConfigError(str(name), "is not a metric")
        if isinstance(value, bool) or not isinstance(value, int | float | NoneType):
            raise ConfigError(str(name), "must be a number", value)
    measured = {str(name): value for name, value in metrics.items() if value is not None}
    return {
        name: metric_named(name).checked(value, name)
        for name, value in measured.items()
        if isinstance(value, int) or math.isfinite(value)
    }


Text = Annotated[str, BeforeValidator(_unicode)]


class Record(Config):
    """The record of one proposal: a row of the results table."""

    model_config = ConfigDict(strict=True)

    version: Literal[2] = 2
    """Version of the record; records of version 1, with a field per metric, can be read."""
    trial: int
    """Number of the proposal in the study."""
    state: Annotated[TrialState, Field(strict=False)]
    config_id: Text
    """Hash of the canonical RunConfig: equal for equal trainings."""
    metrics: Annotated[dict[str, int | float], PlainValidator(_finite_metrics)]
    """The measured metrics by name: finite numbers."""
    point: Annotated[dict[str, Any], PlainValidator(_plain_point)] = Field(default_factory=dict)
    """The searched dimensions that this proposal depends on."""
    epochs: int = 0
    """Epochs trained."""
    epochs_planned: int = 0
    """Epochs of a full training."""
    started_at: Text = ""
    """ISO 8601, UTC."""
    finished_at: Text = ""
    """ISO 8601, UTC; empty while running."""
    replay_of: int | None = None
    """The trial whose result a replayed proposal used."""
    reason: Text = ""
    """Why the trial failed or was refused."""

    @model_validator(mode="after")
    def _is_measured(self) -> Self:
        for name in COUNTS:
            if name not in self.metrics:
                raise ConfigError(name, "is required")
        if self.state in MEASURED and all(metric_named(name).is_cost for name in self.metrics):
            rule = f"of a {self.state} trial must have one that training measures, such as top1"
            raise ConfigError("metrics", rule)
        return self

    def value(self, metric: str) -> float:
        """Return a metric, NaN where it was not measured."""
        return self.metrics.get(metric, math.nan)

    @classmethod
    def from_data(cls, data: object, where: str = "") -> Self:
        """Build a record of version 1 or 2 from plain values; RecordError when they are none."""
        if not isinstance(data, Mapping):
            raise RecordError(where, f"must be a mapping of a record's fields, got {data!r:.80}")
        fields = {str(name): value for name, value in data.items()}
        try:
            return cls(**(fields if "version" in fields else _of_version_1(fields)))
        except ConfigError as error:
            field = error.field.removeprefix("metrics.")
            reason = str(ConfigError("", f"{field} {error.rule}", error.value))
            raise RecordError(where, reason) from None


NOT_METRICS = frozenset({*Record.model_fields, "fidelity"})
"""Columns of the results table that no metric may be called."""
COUNTS = tuple(metric.name for metric in BUILT_IN if metric.is_count)
"""Metrics that every proposal has: their columns take no missing value."""
MEASURED = frozenset({TrialState.TRAINED, TrialState.STOPPED, TrialState.REPLAYED})
"""The states of trials that have metrics of training."""


def _of_version_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record of version 1 in today's layout: its metrics were fields."""
    names = [metric.name for metric in BUILT_IN if metric.name in fields]
    others = {name: value for name, value in fields.items() if name not in names}
    return {**others, "metrics": {name: fields[name] for name in names}}


def check_contained(run: Path) -> None:
    """Raise RunFolderError when a part of a run folder is a link that leads out of it.

    A folder from others is read, resumed and reported on in place: nothing outside of it is.
    """
    home = run.resolve()
    folders = [run / name for name in FOLDERS]
    files = [run / name for name in FILES]
    inner = [Path(entry) for folder in folders for entry in _links(folder)]
    for path in (*folders, *files, *inner):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            rule = f"has a link that leads out of it ({path.relative_to(run)})"
            raise RunFolderError(str(run), rule, "put the file itself in its place")


def _links(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_symlink()]
    except OSError:
        return []


def check_recorded(metric: str) -> None:
    """Raise ConfigError unless trials are recorded with a metric of this name."""
    if metric not in METRICS or METRICS[metric].curve_only:
        known = ", ".join(known.name for known in recorded_metrics())
        rule = f"must be among {known}, or of a package that is installed"
        raise ConfigError("objectives", rule, metric)
