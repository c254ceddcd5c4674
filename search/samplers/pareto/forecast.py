"""Forecasts the final metrics of a training that was stopped early, from those that went on."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy.special import expit, logit

from castling.metrics import FRACTION, metric_named


PRIOR_SPREAD, PRIOR_WEIGHT = 0.4, 2.0
"""Prior standard deviation of the gain between trials, and its weight in trials."""
WORST, BEST = 0.01, 0.999
"""Accuracies are clipped to this range; outside, one validation image makes the difference."""
LEAST = 1e-9
"""Positive metrics are clipped to this range."""


def forecast(
    metric: str, reached: float, others: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Return the expected final value of a metric and its standard deviation.

    From a rung to the end all trials gain about the same, if accuracies are written as log odds
    and all other metrics as logarithms: the forecast adds the mean gain of the others.

    Args:
        metric: of a record.
        reached: its value when the trial was stopped.
        others: of each trial that was trained in full, its value at the same rung and in the end;
            at least one.
    """
    gains = [_scaled(metric, final) - _scaled(metric, then) for then, final in others]
    mean, number = fmean(gains), len(gains)
    squares = PRIOR_WEIGHT * PRIOR_SPREAD**2 + sum((gain - mean) ** 2 for gain in gains)
    spread = (squares / (PRIOR_WEIGHT + number - 1) * (1.0 + 1.0 / number)) ** 0.5
    expected = _scaled(metric, reached) + mean
    low, high = (_unscaled(metric, expected + sign * spread) for sign in (-1.0, 1.0))
    return _unscaled(metric, expected), (high - low) / 2.0


def _is_accuracy(metric: str) -> bool:
    return metric_named(metric).unit == FRACTION


def _scaled(metric: str, value: float) -> float:
    if _is_accuracy(metric):
        return float(logit(np.clip(value, WORST, BEST)))
    return float(np.log(max(value, LEAST)))


def _unscaled(metric: str, value: float) -> float:
    return float(expit(value) if _is_accuracy(metric) else np.exp(value))
