"""The contract between a search and its readers: what a run folder and a trial's record hold."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self

from castling.config import Config
from castling.errors import RecordError, RunFolderError
from castling.plain_yaml import LARGEST_NUMBER


MANIFEST_FILE, STUDY_FILE, STUDY_NAME = "config.yaml", "study.journal", "castling"
LOCK_FILE = ".lock"
LATENCY_FILE = "latency.jsonl"
"""The parts of models that were timed, where a search bounds or trades off latency."""
CURVES_FOLDER, CHECKPOINTS_FOLDER, REPORT_FOLDER = "curves", "checkpoints", "report"
RECORD_ATTRIBUTE, CONFIG_ATTRIBUTE, RUNGS_ATTRIBUTE = "record", "config", "rungs"
"""Keys of an Optuna trial's user attributes that hold the record and the decoded RunConfig."""


def curve_path(run: Path, trial: int) -> Path:
    """Return the file of a trial's metrics per epoch, a JSON object a line."""
    return run / CURVES_FOLDER / f"{trial:05d}.jsonl"


def weights_path(run: Path, trial: int) -> Path:
    """Return the file of a trial's castled weights; kept while the trial is on the front."""
    return run / CHECKPOINTS_FOLDER / f"{trial:05d}.safetensors"


def training_path(run: Path, trial: int) -> Path:
    """Return the file from which an interrupted trial goes on."""
    return run / CHECKPOINTS_FOLDER / f"{trial:05d}.training.safetensors"


class TrialState(StrEnum):
    """How far a proposal came."""

    RUNNING = "running"
    """Being trained, or interrupted and waiting for --resume."""
    TRAINED = "trained"
    """Trained for all its epochs."""
    STOPPED = "stopped"
    """Stopped early: its metrics are those of fewer epochs."""
    FAILED = "failed"
    """Training broke; `reason` says why, there is no metric."""
    REPLAYED = "replayed"
    """Same model and training as an earlier trial, whose result was used again."""
    REFUSED = "refused"
    """Over budget: never trained."""


Direction = Literal["max", "min"]


class Objective(Config):
    """A recorded metric and the direction in which it is better."""

    metric: str
    direction: Direction

    @property
    def sign(self) -> float:
        """What to multiply the metric by so that smaller is better."""
        return -1.0 if self.direction == "max" else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one proposal: the columns of the results table; NaN until measured."""

    trial: int
    """Number of the proposal in the study."""
    state: TrialState
    macs: int
    """Multiply-accumulates per image of the castled model."""
    params: int
    """Parameters of the castled model."""
    training_macs: int
    """Multiply-accumulates per image of the forward pass while the auxiliary branch is alive."""
    config_id: str
    """Hash of the canonical RunConfig: equal for equal trainings."""
    point: Mapping[str, Any] = field(default_factory=dict)
    """The searched dimensions that this proposal depends on."""
    latency_ms: float = math.nan
    """Milliseconds of one image by the run's latency table; NaN where it has none."""
    top1: float = math.nan
    """Validation accuracy of the castled model, 0 to 1."""
    top1_branch: float = math.nan
    """Validation accuracy with the auxiliary branch, 0 to 1."""
    loss: float = math.nan
    """Mean training loss of the last epoch."""
    mask_density: float = math.nan
    """Mean fraction of the auxiliary masks' entries that survived in the last epoch."""
    epochs: int = 0
    """Epochs trained."""
    epochs_planned: int = 0
    """Epochs of a full training."""
    train_seconds: float = math.nan
    """Wall-clock time of training, without waiting."""
    images_per_s: float = math.nan
    """Training throughput of the last epoch."""
    started_at: str = ""
    """ISO 8601, UTC."""
    finished_at: str = ""
    """ISO 8601, UTC; empty while running."""
    replay_of: int | None = None
    """The trial whose result a replayed proposal used."""
    reason: str = ""
    """Why the trial failed or was refused."""

    def __post_init__(self) -> None:
        measured = self.state in {TrialState.TRAINED, TrialState.STOPPED, TrialState.REPLAYED}
        if measured and not 0.0 <= self.top1 <= 1.0:
            reason = f"a {self.state} trial has a top1 in [0, 1], got {self.top1}"
            raise RecordError(f"trial {self.trial}", reason)

    def to_data(self) -> dict[str, Any]:
        """Return plain values for strict JSON: null stands for what is not finite."""
        data = {item.name: _plain(getattr(self, item.name)) for item in fields(self)}
        return data | {"state": str(self.state), "point": dict(self.point)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any], where: str) -> Self:
        """Build a record from plain values; RecordError when they are not one."""
        try:
            return cls(**{name: _typed(name, value) for name, value in data.items()})
        except RecordError as error:
            raise RecordError(where, f"{error.path}: {error.reason}") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise RecordError(where, str(error)) from None


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


_DECLARED: dict[str, Any] = {item.name: item.type for item in fields(Record)}
MEASURED = [name for name, kind in _DECLARED.items() if kind in (int, float) and name != "trial"]
"""What a front may trade off."""
_STORED_AS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    int | None: (int, NoneType),
    TrialState: (str,),
    Mapping[str, Any]: (Mapping,),
}


def _plain_point(point: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a point whose names and values a table can hold; TypeError when it is none."""
    for value in point.values():
        if not isinstance(value, bool | int | float | str | NoneType):
            raise TypeError(f"point must have plain values, got {value!r}")
        if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
            raise TypeError("point must have whole numbers of at most 64 bits")
    return {
        _unicode(str(name)): _unicode(value) if isinstance(value, str) else value
        for name, value in point.items()
    }


def _unicode(text: str) -> str:
    """Return a text that can be written: a path in it may not be UTF-8."""
    return text.encode(errors="replace").decode()


def _typed(name: str, value: Any) -> Any:
    if name not in _DECLARED:
        raise TypeError(f"{name} is not a field of a record")
    declared = _DECLARED[name]
    if declared is float and value is None:
        return math.nan
    if not isinstance(value, _STORED_AS[declared]) or isinstance(value, bool):
        raise TypeError(f"{name} must be of type {declared}, got {value!r}")
    if isinstance(value, str) and declared is str:
        return _unicode(value)
    if isinstance(value, Mapping):
        return _plain_point(value)
    return declared(value) if declared in {float, TrialState} else value


def check_contained(run: Path) -> None:
    """Raise RunFolderError when a part of a run folder is a link that leads out of it.

    A folder from others is read, resumed and reported on in place: nothing outside of it is.
    """
    home = run.resolve()
    folders = [run / name for name in (CURVES_FOLDER, CHECKPOINTS_FOLDER, REPORT_FOLDER)]
    files = [run / name for name in (MANIFEST_FILE, STUDY_FILE, LATENCY_FILE, LOCK_FILE)]
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
