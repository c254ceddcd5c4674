"""Runs in a Ray worker: trains, castles and evaluates one trial, and writes curve and weights."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import tune

from castling.config import RunConfig
from castling.files import write_text
from castling.metrics import Direction
from castling.model.castle import castle
from castling.model.storage import save_weights
from castling.tasks import TASKS
from castling.training.callbacks import Curve
from castling.training.data import TrainingData
from castling.training.loop import Trained, train
from castling.training.metrics import EpochMetrics
from castling.training.out_of_memory import is_out_of_memory
from castling.training.seeds import seeded
from reports.curves import read_curve, recorded
from reports.records import TrialState, curve_path, error_path, training_path, weights_path
from search.execution.peers import (
    LostPeerError,
    PeerError,
    limit_memory,
    processes_of_a_trial,
)
from search.execution.repeats import mean_and_spread, median_repeat
from search.execution.trial_log import output_kept
from search.study.storage import STORAGE_ERRORS
from search.study.trial import Outcome


OUTCOME, STORAGE_PROBLEM = "outcome", "storage_problem"
"""Keys of a trial's last report: how it ended, or why the run folder cannot be written."""

LOST = "lost"
"""Key of the last report of a trial that lost a process, and can go on from its checkpoint."""

SCORE = "score"
"""Key of a report's JSON of the task's primary metric and its value, for the display."""

CURVE = "curve"
"""Key of the report at a rung: every epoch so far. The training waits there to be judged."""

REPORT_EVERY_S = 1.0
"""Shortest time between two reports of progress; every epoch is in the curve all the same."""


def train_trial(config: Mapping[str, Any], data: TrainingData) -> None:
    """Train one trial and report its outcome to Ray Tune.

    Args:
        config: `trial` number, `run` as JSON, the `seeds` of its repeats, the (metric, direction)
            of the search's `objectives`, `folder` of the run, the epochs that are `rungs`, how
            many `processes` train it, torch `threads` and `gpus` of each, and how many `seconds`
            it may take, or None.
        data: training and validation images, from Ray's object store.
    """
    torch.set_num_threads(config["threads"])
    limit_memory(config["gpus"])
    folder, trial = Path(config["folder"]), config["trial"]
    try:
        run = RunConfig.from_data(json.loads(config["run"]))
        with output_kept(error_path(folder, trial), config["seconds"]):
            outcome = _train(run, data, folder, config)
    except Exception as error:  # noqa: BLE001 - the one boundary: any failure becomes a record
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            tune.report({STORAGE_PROBLEM: f"{error.strerror}", "trial": trial})
            return
        if isinstance(error, LostPeerError):
            tune.report({LOST: str(error), "trial": trial})
            return
        outcome = _failure(error)
    tune.report({OUTCOME: json.dumps(asdict(outcome)), "trial": trial})


def _failure(error: Exception) -> Outcome:
    """Return the outcome of a trial that raised an error, in this process or in a peer."""
    reason, starved = f"{type(error).__name__}: {error}", is_out_of_memory(error)
    if isinstance(error, PeerError):
        reason, starved = str(error), error.out_of_memory
    return Outcome(state=TrialState.FAILED, reason=reason, out_of_memory=starved)


def _train(run: RunConfig, data: TrainingData, folder: Path, config: Mapping[str, Any]) -> Outcome:
    """Train every repeat, one after the other, and keep the weights of the median one."""
    trial, num_repeats = config["trial"], len(config["seeds"])
    trained = _train_repeat(run, data, folder, config, 0)
    ends = [recorded(trained.metrics)]
    for repeat in range(1, num_repeats):
        trained = _train_repeat(run, data, folder, config, repeat)
        ends.append(recorded(trained.metrics))
    metric, direction = _ranked_by(config["objectives"], ends[0], run)
    kept = median_repeat([end.get(metric, math.nan) for end in ends], direction)
    if kept < num_repeats - 1:  # it is over: its checkpoint is loaded
        trained = _train_repeat(run, data, folder, config, kept)
    if num_repeats > 1:
        lines = [epoch.to_line() for epoch in read_curve(folder, trial, kept)]
        write_text(curve_path(folder, trial), "".join(f"{line}\n" for line in lines))
    save_weights(castle(trained.model), weights_path(folder, trial))
    return Outcome(
        state=TrialState.TRAINED,
        metrics=mean_and_spread(ends),
        epochs=trained.metrics.epoch,
        seed=config["seeds"][kept],
    )


def _ranked_by(
    objectives: Sequence[tuple[str, Direction]], measured: Mapping[str, float], run: RunConfig
) -> tuple[str, Direction]:
    """Return the first objective that training measures, else the task's primary metric."""
    task = TASKS[run.task]
    first = (goal for goal in objectives if goal[0] in measured)
    return next(first, (task.primary, task.metrics[task.primary]))


def _train_repeat(
    run: RunConfig, data: TrainingData, folder: Path, config: Mapping[str, Any], repeat: int
) -> Trained:
    """Train one repeat, or go on with it."""
    trial, rungs, seeds = config["trial"], frozenset(config["rungs"]), config["seeds"]
    run, file = seeded(run, seeds[repeat]), repeat if len(seeds) > 1 else None
    primary = TASKS[run.task].primary
    curve = read_curve(folder, trial, file)
    reported_at = time.monotonic()

    def on_epoch(metrics: EpochMetrics) -> bool:
        nonlocal reported_at
        curve[metrics.epoch - 1 :] = [metrics]  # an interrupted trial repeats some epochs
        if metrics.epoch == run.train.epochs:
            return True
        report = {
            "epoch": (repeat * run.train.epochs + metrics.epoch) // len(seeds),
            SCORE: json.dumps({primary: metrics.metrics[primary]}),
            "trial": trial,
        }
        if metrics.epoch in rungs:
            tune.report(report | {CURVE: json.dumps([epoch.to_data() for epoch in curve])})
        elif time.monotonic() - reported_at >= REPORT_EVERY_S:
            tune.report(report)
        else:
            return True
        reported_at = time.monotonic()
        return True

    checkpoint, newest = training_path(folder, trial, file), len(curve)
    with processes_of_a_trial(config, run, data, checkpoint, newest) as execution:
        return train(
            run,
            data,
            callbacks=[Curve(curve_path(folder, trial, file))],
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            newest_epoch=newest,
            execution=execution,
        )
