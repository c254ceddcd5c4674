"""Training with the full Castling scheme: deterministic from one seed, resumable at any epoch."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from castling.config import RunConfig, TrainConfig
from castling.errors import CheckpointError, ConfigError, DivergedError
from castling.model.build import build
from castling.model.castle import castle
from castling.model.check import digest
from castling.model.digest_v1 import digest_v1
from castling.model.storage import begin_with
from castling.operators.auxiliary import AuxiliaryBranch, branches
from castling.operators.gates import Gates, cost_penalty, gated
from castling.training.augment import augment
from castling.training.checkpoint import load_checkpoint, previous_checkpoint, save_checkpoint
from castling.training.data import Dataset, Split
from castling.training.distill import Distillation
from castling.training.metrics import EpochMetrics
from castling.training.schedule import learning_rate
from castling.training.teacher import digest_of, load_initial, load_teacher


EVALUATION_BATCH = 250
"""Images per forward pass of an evaluation; fixed, so that accuracies are reproduced exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A split on its device, with the statistics that normalise it."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, split: Split, data: Dataset, device: torch.device) -> "Pixels":
        """Copy a split to a device."""
        return cls(
            images=torch.tensor(split.images, device=device),
            labels=torch.tensor(split.labels, device=device),
            mean=torch.tensor(data.mean, device=device)[:, None, None],
            std=torch.tensor(data.std, device=device)[:, None, None],
        )

    def batch(self, rows: Tensor | slice) -> Tensor:
        """Return normalised images (batch, channel, height, width)."""
        return (self.images[rows].float() / 255.0 - self.mean) / self.std


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A training that ended, or was stopped by its caller."""

    model: nn.Module
    """The model, branches still in place."""
    metrics: EpochMetrics
    """Of the last epoch."""


def train(  # noqa: PLR0913 - what a training may begin from and report to
    run: RunConfig,
    data: Dataset,
    *,
    initial: nn.Module | None = None,
    on_epoch: Callable[[EpochMetrics], bool] = lambda _: True,
    checkpoint: Path | None = None,
    checkpoint_share: float = 0.02,
    known_epochs: int | None = None,
    device: str | None = None,
) -> Trained:
    """Train a model; the same config and data give the same weights, bit for bit, on a CPU.

    Args:
        run: model, training scheme and data.
        data: training and validation images.
        initial: a model whose weights to begin with, castled or not, in place of the one that
            `run.train.initial` names; where neither is, they are random.
        on_epoch: called after every epoch; returning False stops the training there.
        checkpoint: file to go on from if it holds this training, and to write to. A file that is
            truncated or of another training is ignored and overwritten; the one before it, kept
            beside it, then serves if it can.
        checkpoint_share: the part of the time that writing checkpoints may take: one is written
            after the first epoch, after the last, and after those between that keep to it.
        known_epochs: whose metrics the caller still has from earlier; a checkpoint with more is
            left, so that none is missing. None takes any.
        device: torch device to train on; None takes a GPU where there is one.

    Raises:
        ConfigError: when initial model or teacher do not fit the model.
        CheckpointError: when the initial model is of another architecture, or weights are
            unreadable.
        DivergedError: when loss or gradient norm is not finite.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng():
        training = _Training(run, data, place, initial)
        if checkpoint is not None:
            training.resume(checkpoint, known_epochs)
        started, saving, going_on = time.monotonic(), 0.0, True
        while going_on and training.epochs < run.train.epochs:
            going_on = on_epoch(training.epoch())
            ended = not going_on or training.epochs == run.train.epochs
            now = time.monotonic()
            if checkpoint is not None and (ended or saving <= checkpoint_share * (now - started)):
                training.save(checkpoint)
                saving += time.monotonic() - now
    assert training.metrics is not None  # a config has at least one epoch
    return Trained(model=training.model, metrics=training.metrics)


class _Training:
    """A training between two epochs: model, optimiser and counters."""

    def __init__(
        self, run: RunConfig, data: Dataset, device: torch.device, initial: nn.Module | None
    ) -> None:
        self.run = run
        self.train_pixels = Pixels.of(data.train, data, device)
        self.validation_pixels = Pixels.of(data.validation, data, device)
        self.model, self.lesson, weights = _begun(run, initial, device)
        self.digest = digest(run) + weights
        self.digest_v1 = digest_v1(run) + weights
        self.branches = branches(self.model)
        self.gated = gated(self.model)
        groups = _groups(self.model, run.train)
        if self.lesson is not None:
            groups += _groups(self.lesson, run.train)
        taught = () if self.lesson is None else self.lesson.parameters()
        self.parameters = [*self.model.parameters(), *taught]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        sizes = batch_sizes(self.model, len(data.train), run.train.batch_size)
        self.batch_sizes, self.steps_per_epoch = sizes, len(sizes)
        self.num_steps = self.steps_per_epoch * run.train.epochs
        self.metrics: EpochMetrics | None = None
        """Of the last epoch."""

    @property
    def epochs(self) -> int:
        """Epochs finished."""
        return 0 if self.metrics is None else self.metrics.epoch

    def resume(self, path: Path, most_epochs: int | None) -> None:
        """Go on from a checkpoint of this training, or the one before, whichever can serve."""
        files, digests = (path, previous_checkpoint(path)), (self.digest, self.digest_v1)
        for file, of_run in product(files, digests):
            with suppress(CheckpointError):
                self.metrics = load_checkpoint(
                    file, self.model, self.optimizer, of_run, self.lesson, most_epochs
                )
                return

    def save(self, path: Path) -> None:
        """Write the state after the last epoch."""
        assert self.metrics is not None
        save_checkpoint(path, self.model, self.optimizer, self.metrics, self.digest, self.lesson)

    def epoch(self) -> EpochMetrics:
        """Train one epoch and validate, with and without the branches."""
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(_epoch_seed(self.run.train.seed, self.epochs))
        torch.manual_seed(generator.initial_seed())  # drop path draws from the global generator
        order = torch.randperm(len(self.train_pixels.labels), generator=generator)
        self.model.train()
        total = 0.0
        for step, rows in enumerate(order.split(self.batch_sizes)):
            total += self._step(rows, step, generator) * len(rows)
        trained = time.perf_counter() - started
        spent = 0.0 if self.metrics is None else self.metrics.train_seconds
        epochs = self.epochs + 1
        self._set_progress(epochs / self.run.train.epochs)
        top1_branch, density = self._validate_with_branches()
        top1 = top1_branch if self._all_empty() else self._validate_castled()
        self.metrics = EpochMetrics(
            epoch=epochs,
            loss=total / len(order),
            top1=top1,
            top1_branch=top1_branch,
            mask_density=density,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            images_per_s=len(order) / trained,
            train_seconds=spent + time.perf_counter() - started,
        )
        return self.metrics

    def _step(self, rows: Tensor, step_of_epoch: int, generator: torch.Generator) -> float:
        config = self.run.train
        step = self.epochs * self.steps_per_epoch + step_of_epoch
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step, self.num_steps) * group["rate"]
        self._set_progress(step / self.num_steps)
        rows = rows.to(self.train_pixels.images.device)
        images = augment(self.train_pixels.batch(rows), config.augment, generator)
        loss = self._loss(images, self.train_pixels.labels[rows])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        value = loss.item()
        for what, number in (("loss", value), ("gradient norm", norm.item())):
            if not math.isfinite(number):
                raise DivergedError(what, self.epochs + 1, step_of_epoch + 1, number)
        self.optimizer.step()
        return value

    def _set_progress(self, progress: float) -> None:
        for branch in self.branches:
            branch.set_progress(progress)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch: labels, teacher, masks and gates."""
        config = self.run.train
        taught = None
        with _autocast(config.precision, images.device):
            if self.lesson is None:
                logits = self.model(images)
            else:
                logits, taught = self.lesson(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        if config.distill is not None and taught is not None:
            loss = (1.0 - config.distill.weight) * loss + taught
        loss = loss + _mask_penalty(self.branches)
        return loss + config.gate_weight * cost_penalty(self.gated, config.gate_target)

    def _all_empty(self) -> bool:
        return all(branch.is_empty for branch in self.branches)

    def _validate_castled(self) -> float:
        return accuracy(castle(self.model), self.validation_pixels)

    def _validate_with_branches(self) -> tuple[float, tuple[float, ...]]:
        """Return the accuracy with the branches and each mask's density over the images."""
        surviving = [0.0] * len(self.branches)

        def count(images: int) -> None:
            for layer, branch in enumerate(self.branches):
                surviving[layer] += 0.0 if branch.is_empty else branch.density * images

        top1 = accuracy(self.model, self.validation_pixels, after_batch=count)
        total = len(self.validation_pixels.labels)
        return top1, tuple(mass / total for mass in surviving)


def batch_sizes(model: nn.Module, num_images: int, batch_size: int) -> list[int]:
    """Return the images of every step of an epoch: the last step takes what is left.

    A single image that is left joins the step before where the model has batch norms, which have
    no statistics of one image.

    Raises:
        ConfigError: when such a model is to train on one image at a time.
    """
    *whole, last = [len(rows) for rows in torch.arange(num_images).split(batch_size)]
    if last > 1 or not any(isinstance(part, _BatchNorm) for part in model.modules()):
        return [*whole, last]
    if batch_size == 1 or not whole:
        raise ConfigError(
            "train.batch_size",
            "must be at least 2, of at least 2 images, for a model with batch norms",
            min(batch_size, num_images),
        )
    return [*whole[:-1], whole[-1] + last]


def _begun(
    run: RunConfig, initial: nn.Module | None, device: torch.device
) -> tuple[nn.Module, Distillation | None, str]:
    """Return the model to train, what a teacher adds to its loss, and the hash of all weights."""
    model = build(run.model, seed=run.train.seed)
    initial = load_initial(run) if initial is None else initial
    weights = "" if initial is None else begin_with(model, initial)
    model.to(device)
    if run.train.distill is None:
        return model, None, weights
    teacher = load_teacher(run, initial).to(device)
    lesson = Distillation(run.train.distill, model, teacher, run.train.seed).to(device)
    return model, lesson, weights + digest_of(teacher)


def check_begin(run: RunConfig) -> None:
    """Raise what `train` would raise before its first step: weights or teacher that do not fit."""
    if run.train.initial is not None or run.train.distill is not None:
        _begun(run, None, torch.device("cpu"))


def _groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the optimiser's groups: decayed weights, all that is spared, and the gates."""
    spared = [name for name, _ in model.named_parameters() if not name.endswith("weight")]
    gates = {id(part) for gate in model.modules() if isinstance(gate, Gates) for part in [gate.t]}
    groups: list[dict[str, Any]] = []
    for group in param_groups_weight_decay(
        model, config.weight_decay, no_weight_decay_list=spared
    ):
        parts = [part for part in group["params"] if id(part) not in gates]
        groups.append({**group, "params": parts, "rate": 1.0})
        moved = [part for part in group["params"] if id(part) in gates]
        if moved:
            groups.append({**group, "params": moved, "rate": config.gate_rate})
    return groups


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _mask_penalty(layers: list[AuxiliaryBranch]) -> Tensor | float:
    """Return the weighted attention mass that survives the masks, summed over layers."""
    penalty: Tensor | float = 0.0
    for branch in layers:
        if branch.surviving_mass is not None and not branch.is_empty:
            penalty = penalty + branch.schedule.l1_weight * branch.surviving_mass
    return penalty


@torch.inference_mode()
def accuracy(
    model: nn.Module, pixels: Pixels, after_batch: Callable[[int], None] = lambda _: None
) -> float:
    """Return the fraction of images whose highest logit is their class.

    Args:
        model: put into eval mode.
        pixels: the images.
        after_batch: called with the number of images of each batch.
    """
    model.eval()
    precision = next(model.parameters()).dtype
    correct = 0
    for start in range(0, len(pixels.labels), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        labels = pixels.labels[rows]
        logits = model(pixels.batch(rows).to(precision))
        correct += int((logits.argmax(dim=1) == labels).sum())
        after_batch(len(labels))
    return correct / len(pixels.labels)


def evaluate(model: nn.Module, split: Split, data: Dataset) -> float:
    """Return a model's accuracy on a split, normalised with the dataset's statistics."""
    device = next(model.parameters()).device
    return accuracy(model, Pixels.of(split, data, device))
