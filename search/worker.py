"""What runs in a Ray worker: one trial trained, castled, scored, its curve and weights written."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from ray import tune

from castling.config import RunConfig
from castling.files import append_line
from castling.model.castle import castle
from castling.model.storage import save_weights
from castling.training.data import Dataset
from castling.training.loop import train
from castling.training.metrics import EpochMetrics
from reports.records import TrialState, curve_path, training_path, weights_path
from search.run_folder import STORAGE_ERRORS
from search.study import Outcome


OUTCOME, STORAGE_PROBLEM = "outcome", "storage_problem"
"""Keys of a trial's last report: how it ended, or why the run folder cannot be written."""

REPORT_EVERY_S = 1.0
"""Shortest time between two reports of progress; every epoch is in the curve all the same."""


def train_trial(config: Mapping[str, Any], data: Dataset) -> None:
    """Train one trial and report its outcome to Ray Tune.

    Args:
        config: `trial` number, `run` as JSON, `folder` of the run, torch `threads` and
            `device`.
        data: training and validation images, from Ray's object store.
    """
    torch.set_num_threads(config["threads"])
    folder, trial = Path(config["folder"]), config["trial"]
    try:
        run = RunConfig.from_data(json.loads(config["run"]))
        outcome = _train(run, data, folder, trial, config["device"])
    except Exception as error:  # noqa: BLE001 - the one boundary: any failure becomes a record
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            tune.report({STORAGE_PROBLEM: f"{error.strerror}", "trial": trial})
            return
        reason = f"{type(error).__name__}: {error}"
        outcome = Outcome(state=TrialState.FAILED, reason=reason)
    tune.report({OUTCOME: json.dumps(asdict(outcome)), "trial": trial})


def _train(run: RunConfig, data: Dataset, folder: Path, trial: int, device: str) -> Outcome:
    curve = curve_path(folder, trial)
    reported_at = time.monotonic()

    def on_epoch(metrics: EpochMetrics) -> bool:
        nonlocal reported_at
        append_line(curve, metrics.to_line())
        if time.monotonic() - reported_at >= REPORT_EVERY_S and metrics.epoch < run.train.epochs:
            tune.report({"epoch": metrics.epoch, "top1": metrics.top1, "trial": trial})
            reported_at = time.monotonic()
        return True

    unfinished = training_path(folder, trial)
    trained = train(run, data, on_epoch=on_epoch, checkpoint=unfinished, device=device)
    save_weights(castle(trained.model), weights_path(folder, trial))
    return _outcome(trained.metrics)


def _outcome(metrics: EpochMetrics) -> Outcome:
    """Return the outcome of a full training from its last epoch."""
    return Outcome(
        state=TrialState.TRAINED,
        top1=metrics.top1,
        top1_branch=metrics.top1_branch,
        loss=metrics.loss,
        mask_density=fmean(metrics.mask_density) if metrics.mask_density else math.nan,
        epochs=metrics.epoch,
        train_seconds=metrics.train_seconds,
        images_per_s=metrics.images_per_s,
    )
