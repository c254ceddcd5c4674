"""The start of a training: model, task, initial weights, teacher."""

from dataclasses import dataclass

import torch
from torch import nn

from castling.config import RunConfig
from castling.model.build import build
from castling.model.storage import begin_with
from castling.tasks import TASKS, Task
from castling.training.distill import Distillation
from castling.training.distilled import Distilled
from castling.training.teacher import digest_of, load_initial, load_teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The start of a training."""

    model: nn.Module
    """To be trained, on the device of the training, its initial weights in place."""
    task: Task
    """The run's; with a teacher, that task distilled. It holds the teacher while it lives."""
    weights_digest: str
    """Hash of the initial weights and of the teacher's; empty without them."""


def start_training(run: RunConfig, initial: nn.Module | None, device: torch.device) -> Start:
    """Return what a training starts from.

    Args:
        run: the training.
        initial: a model whose weights to begin with, in place of `run.train.initial`.
        device: of the training.

    Raises:
        UnknownNameError: when there is no such task.
        ConfigError: when initial model or teacher do not fit the model.
        CheckpointError: when the initial model is of another architecture, or weights are
            unreadable.
    """
    task = TASKS[run.task].build(run)
    model = build(run.model, seed=run.train.fixed_seed())
    initial = load_initial(run) if initial is None else initial
    weights = "" if initial is None else begin_with(model, initial)
    model.to(device)
    if run.train.distill is None:
        return Start(model=model, task=task, weights_digest=weights)
    teacher = load_teacher(run, initial).to(device)
    distillation = Distillation(run.train.distill, model, teacher, run.train.fixed_seed()).to(
        device
    )
    return Start(
        model=model,
        task=Distilled(task, distillation),
        weights_digest=weights + digest_of(teacher),
    )


def check_start(run: RunConfig) -> None:
    """Raise the errors of a training before its first step, such as weights that do not fit."""
    run.train.fixed_seed()
    if run.train.initial is not None or run.train.distill is not None:
        start_training(run, None, torch.device("cpu"))
