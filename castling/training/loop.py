"""Training with the full Castling scheme: deterministic from one seed, resumable at any step."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from castling.config import RunConfig
from castling.training.callbacks import Checkpoints, Report
from castling.training.checkpoint import previous_checkpoint
from castling.training.data import TrainingData
from castling.training.execution import Execution, SingleProcess
from castling.training.metrics import EpochMetrics
from castling.training.trainer import Callback, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A training that ended, or was stopped by its caller."""

    model: nn.Module
    """The model that `train.keep` names, branches still in place."""
    metrics: EpochMetrics
    """Of the model: those of the last epoch, unless `train.keep` names other weights."""


def train(  # noqa: PLR0913 - what a training may begin from and report to
    run: RunConfig,
    data: TrainingData,
    *,
    initial: nn.Module | None = None,
    on_epoch: Callable[[EpochMetrics], bool] = lambda _: True,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
    checkpoint_share: float = 0.02,
    newest_epoch: int | None = None,
    device: str | None = None,
    execution: Execution | None = None,
) -> Trained:
    """Train a model; the same config and data give the same weights, bit for bit, on a CPU.

    Args:
        run: model, training scheme, data and task.
        data: training and validation images.
        initial: a model whose weights to begin with, castled or not, in place of the one that
            `run.train.initial` names; where neither is, they are random.
        on_epoch: called after every epoch and the callbacks; returning False stops the training.
        callbacks: called before the first and after every epoch.
        checkpoint: file to go on from if it holds this training, and to write to, as
            `Checkpoints` does; it is the last of the callbacks.
        checkpoint_share: the part of the time that writing checkpoints may take.
        newest_epoch: ignore a checkpoint newer than this epoch: the caller's curve ends there and
            would have a gap. None accepts any.
        device: torch device to train on; None takes a GPU where there is one.
        execution: of this process, where several train together: all of them call this function
            with the same arguments, and read the first one's checkpoint.

    Raises:
        ConfigError: when initial model or teacher do not fit the model.
        CheckpointError: when the initial model is of another architecture, or weights are
            unreadable.
        DivergedError: when loss or gradient norm is not finite.
    """
    execution = execution or SingleProcess(device)
    together = [*callbacks, Report(on_epoch)]
    with ExitStack() as stack:
        if checkpoint is not None:
            if not execution.is_writer:
                folder = stack.enter_context(TemporaryDirectory(prefix="castling-"))
                checkpoint = Path(folder) / checkpoint.name
            execution.send([checkpoint, previous_checkpoint(checkpoint)])
            together.append(Checkpoints(checkpoint, checkpoint_share, newest_epoch))
        stack.enter_context(torch.random.fork_rng())
        trainer = Trainer(run, data, execution, initial)
        stack.callback(trainer.close)
        trainer.fit(together)
        model, metrics = trainer.kept()
    return Trained(model=model, metrics=metrics)
