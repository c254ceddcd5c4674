"""The metrics of every epoch of a run's trials, as one DataFrame."""

import json
import re
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from castling.memory import check_fits
from castling.plain_yaml import LARGEST_NUMBER
from castling.training.metrics import EpochMetrics
from reports.manifest import Manifest
from reports.records import CURVES_FOLDER, curve_path


METRICS = ("loss", "top1", "top1_branch", "learning_rate", "images_per_s", "train_seconds")


def load_curves(run: str | Path) -> pd.DataFrame:
    """Return a run's learning curves: a row per trial and epoch, in this order.

    The columns are trial, epoch, the metrics of the training loop, and `mask_density`, a tuple
    with a number per layer that has an auxiliary branch. Of an epoch that was trained twice, since
    its trial was interrupted before the next checkpoint, the last is kept; they are equal but for
    the times. Lines that a crash or a full disk tore are left out.

    Raises:
        RunFolderError: when the folder is no run.
        RecordError: when a file is larger than memory.
    """
    folder = Path(run)
    Manifest.read(folder)
    rows = [
        {"trial": int(path.stem), **epoch}
        for path in sorted((folder / CURVES_FOLDER).glob("*.jsonl"))
        if re.fullmatch("[0-9]{5,9}", path.stem) and path.is_file()
        for epoch in _epochs(path)
    ]
    frame = pd.DataFrame(rows, columns=["trial", "epoch", *METRICS, "mask_density"])
    frame = frame.drop_duplicates(["trial", "epoch"], keep="last")
    dtypes = {"trial": "int64", "epoch": "int64"} | dict.fromkeys(METRICS, "float64")
    return frame.astype(dtypes).sort_values(["trial", "epoch"], ignore_index=True)


def read_curve(run: Path, trial: int) -> list[EpochMetrics]:
    """Return the metrics of a trial's epochs, from the first up to the first that is missing.

    What `load_curves` says of repeated and torn lines holds here too; a trial that has ended no
    epoch has no metrics.
    """
    path = curve_path(run, trial)
    found = {epoch["epoch"]: epoch for epoch in (_epochs(path) if path.is_file() else [])}
    return [
        EpochMetrics.from_data(found[number]) for number in takewhile(found.__contains__, count(1))
    ]


def _epochs(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a file; lines that a crash tore, or that are none, are left out."""
    epochs: list[dict[str, Any]] = []
    check_fits(path)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, TypeError, LookupError, OverflowError, RecursionError):
            epoch = json.loads(line)
            metrics = {name: float(epoch[name]) for name in METRICS}
            density = tuple(map(float, epoch["mask_density"]))
            number = int(epoch["epoch"])
            if abs(number) < LARGEST_NUMBER:
                epochs.append({"epoch": number, **metrics, "mask_density": density})
    return epochs
