"""One step of a training: backward passes of a batch's parts, clipping, the optimiser."""

import functools
import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.utils.clip_grad import dispatch_clip_grad
from torch import Tensor, nn

from castling.config import TrainConfig
from castling.data.batches import Batch
from castling.errors import ConfigError
from castling.tasks import Task
from castling.training.execution import Execution
from castling.training.optimizer import has_batch_norms
from castling.training.precision import autocast, loss_scaler
from castling.training.regularisers import Regulariser


class LossModule(nn.Module):
    """A model with its task: one forward pass gives the loss, so that it can be wrapped as one."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model, self.extra = task, model, task.extra

    def forward(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Return the terms of the task's loss."""
        return self.task.loss(self.model, batch, progress)


class Stepper:
    """Takes the steps of a training.

    The gradients of any number of processes and parts are those of the whole batch: each part's
    loss weighs as many images as it has.

    Args:
        loss_module: model and task.
        regularisers: add their penalties to the loss.
        optimizer: of all parameters.
        config: accumulation, clipping and precision.
        execution: where the training runs.

    Raises:
        ConfigError: when a part has one image and the model has batch norms.
    """

    def __init__(
        self,
        loss_module: LossModule,
        regularisers: Sequence[Regulariser],
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        execution: Execution,
    ) -> None:
        self._regularisers, self._optimizer = regularisers, optimizer
        self._config, self._execution = config, execution
        self._parameters = list(loss_module.parameters())
        head = _head(loss_module.model) if config.clip_mode == "agc" else frozenset()
        self._clipped = [part for part in self._parameters if id(part) not in head]
        self._fewest = 2 if has_batch_norms(loss_module) else 1
        if config.batch_size // config.accumulation < self._fewest:
            rule = "must leave two images or more in each part, for a model with batch norms"
            raise ConfigError("train.accumulation", rule, config.accumulation)
        self.scaler = loss_scaler(config.precision, execution.device)
        self._wrapped = execution.wrap(loss_module)

    def step(
        self, batch: Batch, progress: float, num_all: int | None = None
    ) -> tuple[Tensor, Tensor | None, int]:
        """Train on the batch that all processes share.

        Args:
            batch: of all processes, or of this one.
            progress: fraction of the training, 0 to 1.
            num_all: images of all processes where the batch is only this one's part; None where
                it is the batch of all, of which this process takes its part here.

        Returns:
            the mean loss of this process's images, a scalar on the device; the norm of all
            gradients before they are clipped, or None in float16, where it may overflow; and how
            many images this process had.
        """
        self._optimizer.zero_grad(set_to_none=True)
        loss, num_images = self._backward(batch, progress, num_all)
        if self.scaler is None:
            norm = self._clip()
            self._optimizer.step()
            return loss, norm, num_images
        self.scaler.unscale_(self._optimizer)
        self._clip()
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss, None, num_images

    def _backward(self, batch: Batch, progress: float, num_all: int | None) -> tuple[Tensor, int]:
        """Leave the gradients of the whole batch's mean loss; return this process's loss."""
        processes = self._execution.num_processes
        if num_all is None:
            whole, num_all = batch, len(batch.labels)
            batch = Batch(*map(self._execution.shard, whole))
            if not len(batch.labels):
                return self._without_images(whole, progress)
        num_images = len(batch.labels)
        count = max(1, min(self._config.accumulation, num_images // self._fewest))
        if count == processes == 1:
            loss = self._loss(batch, progress)
            self._scaled(loss).backward()
            return loss.detach(), num_images
        parts = zip(*(tensor.tensor_split(count) for tensor in batch), strict=True)
        total = torch.zeros((), device=self._execution.device)
        for index, part in enumerate(parts):
            with self._unshared() if index < count - 1 else nullcontext():
                loss = self._loss(Batch(*part), progress)
                size = len(part[1])
                self._scaled(loss * (processes * size / num_all)).backward()
                total += loss.detach() * (size / num_images)
        return total, num_images

    def _without_images(self, batch: Batch, progress: float) -> tuple[Tensor, int]:
        """Take part in a step that has fewer images than processes: a backward pass of zeros."""
        loss = self._loss(Batch(*(tensor[: self._fewest] for tensor in batch)), progress)
        self._scaled(loss * 0.0).backward()
        return torch.zeros((), device=self._execution.device), 0

    def _loss(self, batch: Batch, progress: float) -> Tensor:
        """Return the sum of the task's terms and the regularisers' penalties."""
        with autocast(self._config.precision, self._execution.device):
            terms = list(self._wrapped(batch, progress).values())
        penalties = [regulariser.penalty() for regulariser in self._regularisers]
        terms += [penalty for penalty in penalties if penalty is not None]
        return functools.reduce(operator.add, terms)

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def _unshared(self) -> AbstractContextManager[None]:
        """Leave the exchange of gradients between processes to a batch's last part."""
        if isinstance(self._wrapped, nn.parallel.DistributedDataParallel):
            return self._wrapped.no_sync()
        return nullcontext()

    def _clip(self) -> Tensor:
        """Clip the gradients; return their norm before."""
        limit, mode = self._config.clip_norm, self._config.clip_mode
        if limit is not None and mode == "norm":
            return torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        gradients = [part.grad for part in self._parameters if part.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit is not None:
            dispatch_clip_grad(self._clipped, limit, mode=mode)
        return norm


def _head(model: nn.Module) -> frozenset[int]:
    """Return the classifier's parameters, which adaptive clipping leaves out.

    Source: Brock et al., High-Performance Large-Scale Image Recognition Without Normalization.
    """
    find = getattr(model, "get_classifier", None)
    heads = find() if find is not None else getattr(model, "head", None)
    heads = heads if isinstance(heads, tuple | list) else [heads]
    return frozenset(
        id(part) for head in heads if isinstance(head, nn.Module) for part in head.parameters()
    )
