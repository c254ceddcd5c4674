"""The learning rate as a pure function of the step."""

import math

from castling.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Return the rate of a step: linear warm-up to the peak, then half a cosine to the final rate.

    Args:
        config: peak, final fraction and warm-up fraction.
        step: 0 to num_steps - 1.
        num_steps: steps of the whole training.
    """
    warmup_steps = round(config.warmup * num_steps)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    final = config.final_learning_rate
    return config.learning_rate * (final + (1.0 - final) * (1.0 + math.cos(math.pi * done)) / 2.0)
