"""Callbacks of a training: its curve on disk, its checkpoints, a function to report to."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

from castling.errors import CheckpointError
from castling.files import append_line
from castling.signals import handle, restore
from castling.training.checkpoint import Snapshot, load_checkpoint, previous_checkpoint
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
    """Resumes from a checkpoint and writes new ones, in a thread beside the training.

    A file that is truncated or of another training is ignored and overwritten; the previous
    checkpoint in the same folder is then used if it is valid. This must be the last of the
    callbacks, as a checkpoint must not be newer than the curve.

    At SIGTERM, SIGINT or SIGHUP, in the main thread, the step in progress is finished, a
    checkpoint is written, and the signal takes its usual course; a second signal does so at once.

    Args:
        path: the file.
        share: the part of the time that writing checkpoints may take: one is written after the
            first epoch, after the last, and after those between that keep to it.
        newest_epoch: ignore a checkpoint newer than this epoch: the caller's curve ends there and
            would have a gap. None accepts any.
    """

    def __init__(self, path: Path, share: float, newest_epoch: int | None) -> None:
        self._path, self._share, self._newest_epoch = path, share, newest_epoch
        self._started, self._saved, self._saving_s = 0.0, 0.0, 0.0
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None
        self._signals: dict[int, Any] = {}
        self._caught: int | None = None

    def on_start(self, trainer: Trainer) -> None:
        """Restore the newest valid state, and watch for signals."""
        paths = (self._path, previous_checkpoint(self._path))
        state = trainer.state()
        for path, digest in product(paths, trainer.accepted_digests):
            with suppress(CheckpointError):
                load_checkpoint(path, state, digest, self._newest_epoch)
                trainer.restore(state)
                break
        self._started = self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._signals = handle(self._catch)

    def on_step(self, trainer: Trainer) -> None:
        """Write a checkpoint where its time has come, or a signal asks to end."""
        if self._caught is not None:
            self._save(trainer)
            self._wait()
            signal.raise_signal(self._caught)
        elif time.monotonic() - self._saved >= 60.0 * trainer.run.train.checkpoint_minutes:
            self._save(trainer)

    def on_epoch(self, trainer: Trainer, metrics: EpochMetrics) -> None:  # noqa: ARG002
        """Write a checkpoint where the training is over or the time allows it."""
        now = time.monotonic()
        if trainer.is_over or self._saving_s <= self._share * (now - self._started):
            self._save(trainer)
        if trainer.is_over:
            self._wait()

    def on_end(self, trainer: Trainer) -> None:  # noqa: ARG002
        """Leave signals as they were, and no write unfinished."""
        self._release()
        self._wait()

    def _catch(self, number: int, _: FrameType | None) -> None:
        self._caught = number
        self._release()

    def _release(self) -> None:
        """Give the signals back to whom they belonged."""
        restore(self._signals)
        self._signals = {}

    def _save(self, trainer: Trainer) -> None:
        """Copy the state and have it written, after any earlier write."""
        self._saved = time.monotonic()
        if not trainer.execution.is_writer:
            return
        self._wait()
        snapshot = Snapshot.of(trainer.state(), trainer.digest)
        self._saving_s += time.monotonic() - self._saved
        self._writer = threading.Thread(target=self._write, args=(snapshot,))
        self._writer.start()

    def _write(self, snapshot: Snapshot) -> None:
        started = time.monotonic()
        try:
            snapshot.write(self._path)
        except Exception as error:  # noqa: BLE001 - raised in the training's thread
            self._error = error
        self._saving_s += time.monotonic() - started

    def _wait(self) -> None:
        """Wait until the last checkpoint is on disk; raise the error of its writing."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
