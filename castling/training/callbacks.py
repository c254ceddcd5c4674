"""Callbacks of a training: its curve on disk, its checkpoints, a function to report to."""

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path

from castling.errors import CheckpointError
from castling.files import append_line
from castling.training.checkpoint import load_checkpoint, previous_checkpoint, save_checkpoint
from castling.training.metrics import EpochMetrics
from castling.training.trainer import Callback, Trainer


class Curve(Callback):
    """Appends every epoch's metrics to a file, a line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_epoch(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        """Append a line."""
        if trainer.execution.is_writer:
            append_line(self._path, metrics.to_line())


class Report(Callback):
    """Calls a function after every epoch; where that returns False, the training stops."""

    def __init__(self, function: Callable[[EpochMetrics], bool]) -> None:
        self._function = function

    def on_epoch(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        """Call the function."""
        if not self._function(metrics):
            trainer.stop()


class Checkpoints(Callback):
    """Resumes from a checkpoint and writes new ones.

    A file that is truncated or of another training is ignored and overwritten; the previous
    checkpoint in the same folder is then used if it is valid. This must be the last of the
    callbacks, as a checkpoint must not be newer than the curve.

    Args:
        path: the file.
        share: the part of the time that writing checkpoints may take: one is written after the
            first epoch, after the last, and after those between that keep to it.
        newest_epoch: ignore a checkpoint newer than this epoch: the caller's curve ends there and
            would have a gap. None accepts any.
    """

    def __init__(self, path: Path, share: float, newest_epoch: int | None) -> None:
        self._path, self._share, self._newest_epoch = path, share, newest_epoch
        self._started, self._saving_s = 0.0, 0.0

    def on_start(self, trainer: Trainer) -> None:
        """Restore the newest valid state."""
        paths = (self._path, previous_checkpoint(self._path))
        for path, digest in product(paths, trainer.accepted_digests):
            with suppress(CheckpointError):
                trainer.metrics = load_checkpoint(
                    path,
                    trainer.model,
                    trainer.optimizer,
                    digest,
                    trainer.task.extra,
                    self._newest_epoch,
                )
                break
        self._started = time.monotonic()

    def on_epoch(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        """Write a checkpoint where the training is over or the time allows it."""
        now = time.monotonic()
        is_due = trainer.is_over or self._saving_s <= self._share * (now - self._started)
        if is_due and trainer.execution.is_writer:
            save_checkpoint(
                self._path,
                trainer.model,
                trainer.optimizer,
                metrics,
                trainer.digest,
                trainer.task.extra,
            )
            self._saving_s += time.monotonic() - now
