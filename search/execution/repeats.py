"""The repeats of a trial: mean and spread of their metrics, and whose weights are kept."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from castling.metrics import NAME, STD, Direction


def mean_and_spread(repeats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of a trial: those of its one training, or of several the mean.

    Of several, NAME_std is the sample standard deviation. A metric that a repeat lacks is left
    out.

    Args:
        repeats: the metrics of each training.
    """
    first, *others = repeats
    if not others:
        return dict(first)
    found: dict[str, float] = {}
    for name in first:
        if all(name in other for other in others):
            values = np.array([repeat[name] for repeat in repeats], dtype=np.float64)
            found[name] = float(values.mean())
            if NAME.fullmatch(f"{name}{STD}"):
                found[f"{name}{STD}"] = float(values.std(ddof=1))
    return found


def median_repeat(values: Sequence[float], direction: Direction) -> int:
    """Return the number of the repeat with the median value, of two in the middle the worse one.

    Args:
        values: of each repeat; NaN is the worst.
        direction: where values are better.
    """
    sign = 1.0 if direction == "max" else -1.0

    def goodness(repeat: int) -> float:
        value = values[repeat]
        return -math.inf if math.isnan(value) else sign * value

    return sorted(range(len(values)), key=goodness)[(len(values) - 1) // 2]
