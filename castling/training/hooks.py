"""The metrics of other packages that are evaluated on a model after every epoch."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from castling.errors import ConfigError
from castling.metrics import METRICS


def hooked_metrics(
    model: Callable[[], nn.Module], batches: Callable[[], Iterable[Any]]
) -> dict[str, float]:
    """Return every registered metric that has an `evaluate` hook, by name.

    Args:
        model: returns the castled model; called only where there are hooks.
        batches: returns the validation images, batch by batch, from the first.

    Raises:
        ConfigError: when a hook returns no number, or fails.
    """
    hooked = [metric for metric in METRICS.values() if metric.evaluate is not None]
    if not hooked:
        return {}
    castled = model().eval()
    values = {}
    with torch.inference_mode():
        for metric in hooked:
            assert metric.evaluate is not None
            try:
                values[metric.name] = metric.checked(metric.evaluate(castled, batches()))
            except ConfigError:
                raise
            except Exception as error:  # whatever another's code raises, it cannot serve
                rule = f"must be defined for the model ({type(error).__name__}: {error})"
                raise ConfigError(f"metric {metric.name}", rule) from error
    return values
