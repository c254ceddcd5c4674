"""The metrics of every epoch of a run's trials, as one DataFrame."""

import json
import re
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path

import pandas as pd

from castling.memory import check_fits
from castling.plain_yaml import LARGEST_NUMBER
from castling.training.metrics import EpochMetrics
from reports.manifest import Manifest
from reports.records import CURVES_FOLDER, curve_path


METRICS = ("loss", "top1", "top1_branch", "learning_rate", "images_per_s", "train_seconds")
"""Columns that every frame of curves has, after trial and epoch."""
_KEYS = ("trial", "epoch", "mask_density")


def load_curves(run: str | Path) -> pd.DataFrame:
    """Return a run's learning curves: a row per trial and epoch, in this order.

    The columns are trial, epoch, the metrics of the training, and `mask_density`, a tuple with a
    number per layer that has an auxiliary branch. If an epoch was trained twice, since its trial
    was interrupted before the next checkpoint, its last line counts; they are equal but for the
    times. Incomplete lines, left by a crash or a full disk, are ignored.

    Raises:
        RunFolderError: when the folder is no run.
        RecordError: when a file is larger than memory.
    """
    folder = Path(run)
    Manifest.read(folder)
    rows = [
        {
            **epoch.metrics,
            "trial": int(path.stem),
            "epoch": epoch.epoch,
            "mask_density": epoch.mask_density,
        }
        for path in sorted((folder / CURVES_FOLDER).glob("*.jsonl"))
        if re.fullmatch("[0-9]{5,9}", path.stem) and path.is_file()
        for epoch in _epochs(path)
    ]
    metrics = dict.fromkeys([*METRICS, *(name for row in rows for name in row)], "float64")
    dtypes = {name: kind for name, kind in metrics.items() if name not in _KEYS}
    frame = pd.DataFrame(rows, columns=["trial", "epoch", *dtypes, "mask_density"])
    frame = frame.drop_duplicates(["trial", "epoch"], keep="last")
    dtypes |= {"trial": "int64", "epoch": "int64"}
    return frame.astype(dtypes).sort_values(["trial", "epoch"], ignore_index=True)


def read_curve(run: Path, trial: int) -> list[EpochMetrics]:
    """Return the metrics of a trial's epochs, from the first up to the first that is missing.

    Repeated and incomplete lines are treated as by `load_curves`; a trial that has ended no epoch
    has no metrics.
    """
    path = curve_path(run, trial)
    epochs = {epoch.epoch: epoch for epoch in (_epochs(path) if path.is_file() else [])}
    return [epochs[number] for number in takewhile(epochs.__contains__, count(1))]


def _epochs(path: Path) -> list[EpochMetrics]:
    """Return the epochs of a file; incomplete lines, and lines that are no epoch, are left out."""
    epochs: list[EpochMetrics] = []
    check_fits(path)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, TypeError, LookupError, OverflowError, RecursionError):
            epoch = EpochMetrics.from_data(json.loads(line))
            if epoch.epoch < LARGEST_NUMBER:
                epochs.append(epoch)
    return epochs
