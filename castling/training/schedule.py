"""The learning rate as a pure function of the step."""

import math

from castling.config import TrainConfig


def learning_rate(
    config: TrainConfig, step: int, num_steps: int, num_of_epoch: int | None = None
) -> float:
    """Return the rate of a step: linear warm-up to the peak, then the schedule.

    timm's schedulers change an optimiser; this function has no state to store, and gives the same
    rates bit for bit as earlier versions.

    Args:
        config: peak and its rule for the batch, final rate, warm-up, schedule.
        step: 0 to num_steps - 1.
        num_steps: steps of the whole training.
        num_of_epoch: steps of an epoch; by default those of `config.epochs` equal epochs.
    """
    num_of_epoch = num_of_epoch or max(1, num_steps // config.epochs)
    peak = config.learning_rate * batch_scale(config)
    if config.warmup_epochs is None:
        warmup_steps = round(config.warmup * num_steps)
    else:
        warmup_steps = round(config.warmup_epochs * num_of_epoch)
    if step < warmup_steps:
        start = config.warmup_rate
        if not start:
            return peak * (step + 1) / warmup_steps
        return start + (peak - start) * step / warmup_steps
    if config.schedule == "constant":
        return peak
    if config.schedule == "step":
        return float(peak * config.decay_rate ** (step // (config.decay_epochs * num_of_epoch)))
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    final = config.final_learning_rate
    if config.final_rate is not None:
        final = config.final_rate / peak
    if config.schedule == "linear":
        return peak * (final + (1.0 - final) * (1.0 - done))
    return peak * (final + (1.0 - final) * (1.0 + math.cos(math.pi * done)) / 2.0)


def batch_scale(config: TrainConfig) -> float:
    """Return the factor of the peak: batch_size / learning_rate_base_batch, or 1 without it.

    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017 (the linear scaling rule).
    """
    base = config.learning_rate_base_batch
    return 1.0 if base is None else config.batch_size / base
