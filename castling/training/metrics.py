"""What an epoch of training yields, as an object and as a line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """What an epoch of training yields."""

    epoch: int
    """1 for the first."""
    loss: float
    """Mean training loss, regularisers included."""
    top1: float
    """Validation accuracy of the castled model, 0 to 1."""
    top1_branch: float
    """Validation accuracy with the auxiliary branches, 0 to 1."""
    mask_density: tuple[float, ...]
    """Per layer with a branch: fraction of mask entries that survive on validation images."""
    learning_rate: float
    """Rate of the last step."""
    images_per_s: float
    """Training throughput."""
    train_seconds: float
    """Wall-clock time of all epochs so far, evaluation included."""

    def to_line(self) -> str:
        """Return the metrics as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "EpochMetrics":
        """Build the metrics from plain values; TypeError when they are not metrics."""
        metrics = cls(**{**data, "mask_density": tuple(data["mask_density"])})
        numbers = [getattr(metrics, item.name) for item in fields(cls) if item.type is float]
        for number in (*numbers, *metrics.mask_density, metrics.epoch):
            if type(number) not in (int, float):
                raise TypeError(f"{number!r} is no number")
        if type(metrics.epoch) is not int or metrics.epoch < 1:
            raise TypeError(f"{metrics.epoch!r} is no epoch")
        return metrics
