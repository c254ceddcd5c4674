"""The metrics of every epoch of a run's trials, as one DataFrame."""

import json
import re
from collections.abc import Collection
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from castling.errors import ConfigError
from castling.metrics import BUILT_IN, OF_TASKS, all_metrics, metric_named
from castling.training.metrics import EpochMetrics
from castling.untrusted.memory import check_fits
from reports.manifest import Manifest
from reports.records import CURVES_FOLDER, TRAINING_CURVE_FILE, curve_path, is_training


MASK_DENSITY = "mask_density"
EPOCH_METRICS = tuple(
    metric.name
    for metric in BUILT_IN
    if not metric.is_cost and metric.name not in {MASK_DENSITY, *OF_TASKS}
)
"""Castling's metrics of an epoch that are one number; the mask's density has one per layer."""
MOST_METRICS = 1_000
"""Largest number of metrics' names in a run's curves."""


def load_curves(
    run: str | Path, trials: Collection[int] | None = None, *, repeats: bool = False
) -> pd.DataFrame:
    """Return the learning curves of a run, or of a training: a row per trial and epoch.

    The columns are trial, epoch, the metrics of the training loop, those of plugins, and
    `mask_density`, a tuple with a number per layer that has an auxiliary branch. If an epoch was
    trained twice, since its trial was interrupted before the next checkpoint, the last line
    counts; the lines differ in the times only. Lines that a crash or a full disk left incomplete
    are skipped.

    Args:
        run: folder of the run, or of `castling train`, whose one trial has the number 0.
        trials: numbers of the trials whose curves are read; all by default.
        repeats: return the curve of every repeat, of a search with `repeats` above 1, with their
            number in the column `repeat`, in place of that of the repeat whose weights are kept.

    Raises:
        RunFolderError: when the folder is no run.
        RecordError: when a file is larger than memory.
    """
    folder = Path(run)
    keys = ["trial", "repeat"] if repeats else ["trial"]
    rows = [
        {**dict(zip(keys, numbers, strict=True)), **_row(epoch)}
        for numbers, path in _curve_files(folder, repeats=repeats)
        if trials is None or numbers[0] in trials
        for epoch in _epochs(path)
    ]
    others = {name for row in rows for name in row} | {
        metric.name for metric in all_metrics() if metric.evaluate is not None
    }
    keys = [*keys, "epoch"]
    others -= {*keys, *EPOCH_METRICS, MASK_DENSITY}
    names = [*EPOCH_METRICS, *sorted(others)[:MOST_METRICS]]
    frame = pd.DataFrame(rows, columns=[*keys, *names, MASK_DENSITY])
    frame = frame.drop_duplicates(keys, keep="last")
    frame.attrs["run"] = str(folder)
    dtypes = dict.fromkeys(keys, "int64") | dict.fromkeys(names, "float64")
    return frame.astype(dtypes).sort_values(keys, ignore_index=True)


def _curve_files(folder: Path, *, repeats: bool) -> list[tuple[tuple[int, ...], Path]]:
    """Return every curve with the number of its trial, and that of the repeat if asked.

    Raises:
        RunFolderError: when the folder is neither a run nor a training.
    """
    if is_training(folder):
        return [] if repeats else [((0,), folder / TRAINING_CURVE_FILE)]
    Manifest.read(folder)
    pattern = "[0-9]{5,9}[.][0-9]{1,4}" if repeats else "[0-9]{5,9}"
    return [
        (tuple(map(int, path.stem.split("."))), path)
        for path in sorted((folder / CURVES_FOLDER).glob("*.jsonl"))
        if re.fullmatch(pattern, path.stem) and path.is_file()
    ]


def read_curve(run: Path, trial: int, repeat: int | None = None) -> list[EpochMetrics]:
    """Return the metrics of a trial's epochs, from the first up to the first that is missing.

    Args:
        run: folder of the run.
        trial: its number.
        repeat: number of the repeat; None for the one whose weights are kept.

    Repeated and incomplete lines are treated as by `load_curves`; a trial that has ended no epoch
    has no metrics.
    """
    path = curve_path(run, trial, repeat)
    by_number = {epoch.epoch: epoch for epoch in (_epochs(path) if path.is_file() else [])}
    return [by_number[number] for number in takewhile(by_number.__contains__, count(1))]


def recorded(epoch: EpochMetrics) -> dict[str, float]:
    """Return the metrics of an epoch for the record of a trial that ends with it."""
    metrics = {
        name: value for name, value in epoch.metrics.items() if not metric_named(name).curve_only
    }
    if epoch.mask_density:
        metrics[MASK_DENSITY] = fmean(epoch.mask_density)
    return metrics


def _row(epoch: EpochMetrics) -> dict[str, Any]:
    return {"epoch": epoch.epoch, **epoch.metrics, MASK_DENSITY: epoch.mask_density}


def _epochs(path: Path) -> list[EpochMetrics]:
    """Return the epochs of a file; incomplete or malformed lines are skipped."""
    epochs: list[EpochMetrics] = []
    check_fits(path)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ConfigError, ValueError, RecursionError):
            epochs.append(EpochMetrics.from_data(json.loads(line), "epoch"))
    return epochs
