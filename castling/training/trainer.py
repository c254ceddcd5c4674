"""The training loop: epochs of steps, validation after each, and callbacks in between."""

import functools
import math
import operator
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Generator, Tensor, nn

from castling.config import DEFAULT_TASK, RunConfig
from castling.data.batches import Batch
from castling.errors import DivergedError
from castling.metrics import BRANCH
from castling.model.castle import castle
from castling.model.check import digest
from castling.model.digest_v1 import digest_v1
from castling.tasks import Task
from castling.training.augment import Augmentation
from castling.training.data import TrainingData, training_batches
from castling.training.evaluation import evaluate_batches
from castling.training.execution import Execution
from castling.training.hooks import hooked_metrics
from castling.training.metrics import EpochMetrics
from castling.training.optimizer import batch_sizes, parameter_groups
from castling.training.order import training_order
from castling.training.regularisers import GateCost, Masks, Regulariser
from castling.training.schedule import learning_rate
from castling.training.start import start_training


class Callback:
    """Hooks before, between and after the epochs; subclasses override them.

    Callbacks are called in their order. If one stops the training, those after it see it in
    `Trainer.is_over`.
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Act before the first epoch, for example restore an earlier state."""

    def on_epoch(self, trainer: "Trainer", metrics: EpochMetrics) -> None:
        """Act after an epoch and its validation."""


class LossModule(nn.Module):
    """A model with its task: one forward pass gives the loss, so that it can be wrapped as one."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model, self.extra = task, model, task.extra

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Return the terms of the task's loss."""
        return self.task.loss(self.model, batch, progress)


class Trainer:
    """A training between two epochs: model, task, optimiser and counters.

    Args:
        run: model, training scheme, data and task.
        data: training and validation images.
        execution: where it runs.
        initial: a model whose weights to begin with, in place of `run.train.initial`.

    Raises:
        ConfigError: when initial model or teacher do not fit the model.
        CheckpointError: when the initial model is of another architecture, or weights are
            unreadable.
    """

    def __init__(
        self,
        run: RunConfig,
        data: TrainingData,
        execution: Execution,
        initial: nn.Module | None = None,
    ) -> None:
        self.run, self.execution = run, execution
        self._train, self._validation = training_batches(data, run, execution.device)
        self._augmentation = Augmentation(run.train, len(data.classes))
        start = start_training(run, initial, execution.device)
        self.task, self.model = start.task, start.model
        self._labels = data.train.labels
        self.task.begin(self._labels)
        self.digest = digest(run) + start.weights_digest
        """Identifies the training, with the weights that it begins with and learns from."""
        self.accepted_digests = [self.digest]
        """Of the checkpoints to resume from; version 0.1, which had one task, wrote another."""
        if run.task == DEFAULT_TASK:
            self.accepted_digests.append(digest_v1(run) + start.weights_digest)
        self._masks = Masks(self.model)
        self._regularisers: list[Regulariser] = [self._masks, GateCost(self.model, run.train)]
        loss_module = LossModule(self.task, self.model)
        self._parameters = list(loss_module.parameters())
        trained = [part for part in (self.model, self.task.extra) if part is not None]
        groups = [group for part in trained for group in parameter_groups(part, run.train)]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self._loss_module = execution.wrap(loss_module)
        self._batch_sizes = batch_sizes(self.model, len(self._train), run.train.batch_size)
        self._num_steps = len(self._batch_sizes) * run.train.epochs
        self._is_stopped = False
        self.metrics: EpochMetrics | None = None
        """Of the last epoch; a callback that restores an earlier state sets them."""

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return 0 if self.metrics is None else self.metrics.epoch

    @property
    def is_over(self) -> bool:
        """Whether no epoch follows."""
        return self._is_stopped or self.epochs == self.run.train.epochs

    def close(self) -> None:
        """End the loader workers."""
        self._train.close()
        self._validation.close()

    def stop(self) -> None:
        """Train no further epoch."""
        self._is_stopped = True

    def fit(self, callbacks: Sequence[Callback] = ()) -> None:
        """Train until all epochs are done or a callback stops the training.

        Raises:
            DivergedError: when loss or gradient norm is not finite.
        """
        for callback in callbacks:
            callback.on_start(self)
        while not self.is_over:
            metrics = self.epoch()
            for callback in callbacks:
                callback.on_epoch(self, metrics)

    def epoch(self) -> EpochMetrics:
        """Train one epoch and validate, with and without the auxiliary branches."""
        started = time.perf_counter()
        generator = Generator().manual_seed(_epoch_seed(self.run.train.seed, self.epochs))
        torch.manual_seed(generator.initial_seed())  # drop path draws from the global generator
        num_images = len(self._train)
        order = training_order(self._labels, self.run.train, generator)
        self.model.train()
        total = 0.0
        seed = generator.initial_seed()
        batches = self._train.shuffled(order, self._batch_sizes, seed=seed)
        for step, batch in enumerate(batches):
            total += self._step(batch, step, generator) * len(batch.labels)
        trained = time.perf_counter() - started
        spent = 0.0 if self.metrics is None else self.metrics.metrics["train_seconds"]
        epochs = self.epochs + 1
        self._set_progress(epochs / self.run.train.epochs)
        validated, densities = self._validate()
        self.metrics = EpochMetrics(
            epoch=epochs,
            metrics={
                **self.execution.mean({"loss": total / num_images}, num_images),
                **validated,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "images_per_s": num_images / trained,
                "train_seconds": spent + time.perf_counter() - started,
            },
            mask_density=densities,
        )
        return self.metrics

    def _step(self, batch: Batch, step_of_epoch: int, generator: Generator) -> float:
        config = self.run.train
        step = self.epochs * len(self._batch_sizes) + step_of_epoch
        progress = step / self._num_steps
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step, self._num_steps) * group["rate"]
        self._set_progress(progress)
        batch = self._augmentation(batch, generator, step_of_epoch)
        loss = self._loss(batch, progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
        value = loss.item()
        for what, number in (("loss", value), ("gradient norm", norm.item())):
            if not math.isfinite(number):
                raise DivergedError(what, self.epochs + 1, step_of_epoch + 1, number)
        self.optimizer.step()
        return value

    def _loss(self, batch: Batch, progress: float) -> Tensor:
        """Return the sum of the task's terms and the regularisers' penalties."""
        with _autocast(self.run.train.precision, self.execution.device):
            terms = list(self._loss_module(batch, progress).values())
        penalties = [regulariser.penalty() for regulariser in self._regularisers]
        terms += [penalty for penalty in penalties if penalty is not None]
        return functools.reduce(operator.add, terms)

    def _set_progress(self, progress: float) -> None:
        for regulariser in self._regularisers:
            regulariser.set_progress(progress)

    def _validate(self) -> tuple[dict[str, float], tuple[float, ...]]:
        """Return the task's metrics on the validation images, and the masks' densities.

        Once all masks are empty, the model is evaluated without castling: the result is the same.
        """
        observed = self._masks.observe(self._validation.in_order())
        with_branches = evaluate_batches(self.task, self.model, observed)
        castled = functools.cache(lambda: castle(self.model))
        metrics = with_branches
        if not self._masks.are_empty:
            metrics = evaluate_batches(self.task, castled(), self._validation.in_order())
        branch = {f"{name}{BRANCH}": value for name, value in with_branches.items()}
        hooked = hooked_metrics(castled, self._validation.in_order)
        weight = len(self._validation)
        return self.execution.mean({**metrics, **branch, **hooked}, weight), observed.means


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
