"""The training loop: epochs of steps, validation after each, and callbacks in between."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from timm.utils import ModelEmaV3
from torch import Generator, Tensor, nn

from castling.config import DEFAULT_TASK, RunConfig, TrainConfig
from castling.data.batches import Batch
from castling.metrics import BRANCH, EMA
from castling.model.castle import castle, set_progress
from castling.model.check import digest
from castling.model.digest_v1 import digest_v1, is_of_v1
from castling.tasks import TASKS
from castling.training.augment import Augmentation
from castling.training.checkpoint import Best, Position, State
from castling.training.compilation import compile_parts, recompilations
from castling.training.data import TrainingData, training_batches
from castling.training.epoch import EpochInProgress, epoch_seed
from castling.training.evaluation import evaluate_batches
from castling.training.execution import Execution
from castling.training.hooks import hooked_metrics
from castling.training.metrics import EpochMetrics
from castling.training.optimizer import batch_sizes, make_optimizer
from castling.training.order import Parts, training_order
from castling.training.precision import arithmetic, check_precision
from castling.training.regularisers import GateCost, Masks, Regulariser
from castling.training.schedule import learning_rate
from castling.training.start import start_training
from castling.training.step import LossModule, Stepper


class Callback:
    """Hooks before, between and after the epochs; subclasses override them.

    Callbacks are called in their order. If one stops the training, those after it see it in
    `Trainer.is_over`.
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Act before the first epoch, for example restore an earlier state."""

    def on_step(self, trainer: "Trainer") -> None:
        """Act after a step, or after a batch of a validation: `Trainer.state` is complete."""

    def on_epoch(self, trainer: "Trainer", metrics: EpochMetrics) -> None:
        """Act after an epoch and its validation."""

    def on_end(self, trainer: "Trainer") -> None:
        """Act when the training ends, also by an error."""


class Trainer:
    """A training: model, task, optimiser and counters.

    Args:
        run: model, training scheme, data and task.
        data: training and validation images.
        execution: where it runs.
        initial: a model whose weights to begin with, in place of `run.train.initial`.

    Raises:
        ConfigError: when initial model or teacher do not fit the model, or the device has not the
            precision, or the optimiser not an option.
        CheckpointError: when the initial model is of another architecture, or weights are
            unreadable.
    """

    def __init__(  # noqa: PLR0915 - what a training is made of
        self,
        run: RunConfig,
        data: TrainingData,
        execution: Execution,
        initial: nn.Module | None = None,
    ) -> None:
        self.run, self.execution = run, execution
        config = run.train
        check_precision(config.precision, execution.device)
        self._train, self._validation = training_batches(data, run, execution.device)
        self._augmentation = Augmentation(config, len(data.classes))
        start = start_training(run, initial, execution.device)
        self.task, self.model = start.task, start.model
        self._labels = data.train.labels
        self.task.begin(self._labels)
        whole = run.replace(train=config.replace(accumulation=1))
        self.digest = digest(whole) + start.weights_digest
        """Identifies the training, with the weights that it begins with and learns from; a batch
        may be taken in other parts than before."""
        self.accepted_digests = [self.digest]
        """Of the checkpoints to resume from; version 0.1, which had one task, wrote another."""
        if run.task == DEFAULT_TASK and is_of_v1(run):
            self.accepted_digests.append(digest_v1(run) + start.weights_digest)
        self._masks = Masks(self.model)
        self._regularisers: list[Regulariser] = [self._masks, GateCost(self.model, config)]
        self.optimizer = make_optimizer(self.model, self.task.extra, config)
        self._ema = None if config.ema_decay is None else _average(self.model, config)
        self._stepper = self._make_stepper()
        self._batch_sizes = batch_sizes(
            self.model, len(self._train), config.batch_size, execution.num_processes
        )
        self._reads_parts = config.augment.crops_pictures
        self._num_steps = len(self._batch_sizes) * config.epochs
        self._is_stopped = False
        self._callbacks: Sequence[Callback] = ()
        self._epoch: EpochInProgress | None = None
        self._begun: Position | None = None
        self._random: dict[str, Tensor] = {}
        self._best: Best | None = None
        self.metrics: EpochMetrics | None = None
        """Of the last epoch."""

    def _make_stepper(self) -> Stepper:
        compile_parts(self.model, self.run.train.compile)
        return Stepper(
            LossModule(self.task, self.model),
            self._regularisers,
            self.optimizer,
            self.run.train,
            self.execution,
        )

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

    def state(self) -> State:
        """Return the state of the training, for a checkpoint; its tensors are not copied.

        Raises:
            DivergedError: when a loss or gradient norm was not finite.
        """
        position, random = None, {}
        if self._epoch is not None:
            position, random = self._epoch.position(), self._epoch.random()
        return State(
            model=self.model,
            optimizer=self.optimizer,
            extra=self.task.extra,
            ema=None if self._ema is None else self._ema.module,
            scaler=self._stepper.scaler,
            metrics=self.metrics,
            position=position,
            random=random,
            best=self._best,
        )

    def restore(self, state: State) -> None:
        """Go on from a state of this training, into whose modules a checkpoint was loaded."""
        self.metrics, self._best = state.metrics, state.best
        self._begun, self._random = state.position, state.random

    def fit(self, callbacks: Sequence[Callback] = ()) -> None:
        """Train until all epochs are done or a callback stops the training.

        Raises:
            DivergedError: when loss or gradient norm is not finite.
        """
        self._callbacks = callbacks
        config = self.run.train
        with ExitStack() as stack:
            stack.enter_context(arithmetic(config.precision, self.execution.device))
            stack.enter_context(recompilations(self.model, config.compile))
            for callback in callbacks:
                stack.callback(callback.on_end, self)
                callback.on_start(self)
            while not self.is_over:
                metrics = self.epoch()
                for callback in callbacks:
                    callback.on_epoch(self, metrics)

    def epoch(self) -> EpochMetrics:
        """Train one epoch and validate, with and without the auxiliary branches."""
        config = self.run.train
        seed = epoch_seed(config.fixed_seed(), self.epochs)
        generator = Generator().manual_seed(seed)
        order = training_order(self._labels, config, generator)
        self._epoch = epoch = EpochInProgress(
            self.execution, self.epochs + 1, generator, self._begun, self._random
        )
        self._begun, self._random = None, {}
        self.model.train()
        parts = Parts.of(order, self._batch_sizes, self.execution, alone=self._reads_parts)
        batches = self._train.shuffled(parts.order, parts.sizes, seed=seed, first_step=epoch.step)
        for batch in batches:
            self._step(batch, epoch, parts.num_all[epoch.step])
            self._tell_callbacks()
        total, num_images = epoch.readings.read()
        trained = epoch.seconds
        spent = 0.0 if self.metrics is None else self.metrics.metrics["train_seconds"]
        epochs = self.epochs + 1
        self._set_progress(epochs / config.epochs)
        validated, densities = self._validate()
        self.metrics = EpochMetrics(
            epoch=epochs,
            metrics={
                **self.execution.mean({"loss": total / max(1, num_images)}, num_images),
                **validated,
                "learning_rate": self._rate(self._num_of(epochs) - 1),
                "images_per_s": len(self._train) / trained,
                "train_seconds": spent + epoch.seconds,
            },
            mask_density=densities,
        )
        self._epoch = None
        self._note_best(self.metrics)
        return self.metrics

    def kept(self) -> tuple[nn.Module, EpochMetrics]:
        """Return the model that `train.keep` names, and its metrics under the last epoch's number.

        With `best`, the weights are loaded into the model of the training.
        """
        assert self.metrics is not None  # a config has at least one epoch
        if self.run.train.keep == "ema":
            assert self._ema is not None  # the config has checked it
            names = [name for name in self.metrics.metrics if name + EMA in self.metrics.metrics]
            averaged = {name: self.metrics.metrics[name + EMA] for name in names}
            changed = self.metrics.replace(metrics={**self.metrics.metrics, **averaged})
            return self._ema.module, changed
        if self._best is None:
            return self.model, self.metrics
        self.model.load_state_dict(self._best.weights)
        best, seconds = self._best.metrics, self.metrics.metrics["train_seconds"]
        metrics = {**best.metrics, "train_seconds": seconds}
        return self.model, best.replace(epoch=self.metrics.epoch, metrics=metrics)

    def _num_of(self, epochs: int) -> int:
        """Return the steps of a number of epochs."""
        return epochs * len(self._batch_sizes)

    def _rate(self, step: int) -> float:
        """Return the learning rate of the first group of parameters at a step."""
        rate = learning_rate(self.run.train, step, self._num_steps, len(self._batch_sizes))
        first: float = self.optimizer.param_groups[0]["rate"]
        return rate * first

    def _step(self, batch: Batch, epoch: "EpochInProgress", num_all: int | None) -> None:
        config = self.run.train
        step = self._num_of(self.epochs) + epoch.step
        rate = learning_rate(config, step, self._num_steps, len(self._batch_sizes))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        progress = step / self._num_steps
        self._set_progress(progress)
        batch = self._augmentation(batch, epoch.generator, epoch.step)
        loss, norm, num_images = self._stepper.step(batch, progress, num_all)
        if self._ema is not None:
            self._ema.update(self.model, step + 1)
        epoch.step += 1
        epoch.readings.add(loss, norm, num_images)

    def _set_progress(self, progress: float) -> None:
        for regulariser in self._regularisers:
            regulariser.set_progress(progress)

    def _tell_callbacks(self) -> None:
        for callback in self._callbacks:
            callback.on_step(self)

    def _validation_batches(self) -> Iterator[Batch]:
        for batch in self._validation.in_order():
            yield batch
            self._tell_callbacks()

    def _validate(self) -> tuple[dict[str, float], tuple[float, ...]]:
        """Return the task's metrics on the validation images, and the masks' densities.

        Once all masks are empty, the model is evaluated without castling: the result is the same.
        """
        evaluated = functools.partial(
            evaluate_batches,
            self.task,
            precision=self.run.train.precision,
            execution=self.execution,
        )
        observed = self._masks.observe(self._validation_batches(), self.execution)
        with_branches = evaluated(self.model, observed)
        castled = functools.cache(lambda: castle(self.model))
        metrics = with_branches
        if not self._masks.are_empty:
            metrics = evaluated(castled(), self._validation_batches())
        values = {**metrics, **{f"{name}{BRANCH}": with_branches[name] for name in metrics}}
        if self._ema is not None:
            set_progress(self._ema.module, (self.epochs + 1) / self.run.train.epochs)
            average = evaluated(castle(self._ema.module), self._validation_batches())
            values |= {f"{name}{EMA}": value for name, value in average.items()}
        values |= hooked_metrics(castled, self._validation.in_order)
        return self.execution.mean(values, len(self._validation)), observed.means()

    def _note_best(self, metrics: EpochMetrics) -> None:
        """Copy the weights where `train.keep` is best and this epoch's are."""
        if self.run.train.keep != "best":
            return
        task = TASKS[self.run.task]
        sign = 1.0 if task.metrics[task.primary] == "max" else -1.0
        value = metrics.metrics[task.primary]
        if self._best is None or sign * value > sign * self._best.metrics.metrics[task.primary]:
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
            self._best = Best(metrics=metrics, weights=weights)


def _average(model: nn.Module, config: TrainConfig) -> ModelEmaV3:
    assert config.ema_decay is not None
    return ModelEmaV3(model, config.ema_decay, use_warmup=config.ema_warmup)
