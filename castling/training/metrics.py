"""The metrics of an epoch of training, as an object and as a line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


LOOP_METRICS = ("loss", "learning_rate", "images_per_s", "train_seconds")
"""The metrics of every epoch, whatever the task: mean training loss with its regularisers, rate of
the last step, training throughput, and wall-clock seconds of all epochs so far with their
evaluations."""
VERSION_1 = ("loss", "top1", "top1_branch", "learning_rate", "images_per_s", "train_seconds")
"""The fields in which a line of version 1 held its metrics, without a mapping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """The metrics of an epoch of training."""

    epoch: int
    """1 for the first."""
    metrics: Mapping[str, float]
    """The loop's metrics; the task's on the validation images, measured on the castled model, and
    under NAME_branch on the model with its auxiliary branches."""
    mask_density: tuple[float, ...]
    """Per layer with a branch: fraction of mask entries that survive on validation images."""

    def to_data(self) -> dict[str, Any]:
        """Return the metrics as plain values, for JSON."""
        return {
            "epoch": self.epoch,
            "metrics": dict(self.metrics),
            "mask_density": list(self.mask_density),
        }

    def to_line(self) -> str:
        """Return the metrics as one line of JSON."""
        return json.dumps(self.to_data())

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "EpochMetrics":
        """Build the metrics from plain values, also those of version 1.

        Raises:
            KeyError, TypeError, OverflowError: when they are not metrics.
        """
        values = dict(data)
        if "metrics" not in values:
            values["metrics"] = {name: values.pop(name) for name in VERSION_1}
        if not isinstance(values["metrics"], Mapping):
            raise TypeError(f"{values['metrics']!r} are no metrics")
        values["metrics"] = {name: _number(number) for name, number in values["metrics"].items()}
        values["mask_density"] = tuple(map(_number, values["mask_density"]))
        metrics = cls(**values)
        if missing := [name for name in LOOP_METRICS if name not in metrics.metrics]:
            raise KeyError(*missing)
        if type(metrics.epoch) is not int or metrics.epoch < 1:
            raise TypeError(f"{metrics.epoch!r} is no epoch")
        return metrics


def _number(value: object) -> float:
    """Return a number as a float; TypeError when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)
