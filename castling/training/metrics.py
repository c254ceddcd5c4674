"""The metrics of an epoch of training, as an object and as a line of JSON."""

import json
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from castling.config import Config
from castling.errors import ConfigError
from castling.metrics import NAME
from castling.untrusted.plain_yaml import LARGEST_NUMBER


LOOP_METRICS = ("loss", "learning_rate", "images_per_s", "train_seconds")
"""The metrics of every epoch, whatever the task: mean training loss with its regularisers, rate of
the last step, training throughput, and wall-clock seconds of all epochs so far with their
evaluations."""
VERSION_1 = ("loss", "top1", "top1_branch", "learning_rate", "images_per_s", "train_seconds")
"""The fields in which a line of version 1 held its metrics, without a mapping."""


class EpochMetrics(Config):
    """The metrics of an epoch of training, as a curve's line or a checkpoint's note holds them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=True)

    epoch: int = Field(ge=1, lt=LARGEST_NUMBER)
    """1 for the first."""
    metrics: dict[Annotated[str, Field(pattern=f"^{NAME.pattern}$")], float]
    """The loop's metrics; the task's on the validation images, measured on the castled model, and
    under NAME_branch on the model with its auxiliary branches."""
    mask_density: tuple[Annotated[float, Field(strict=True)], ...] = Field(strict=False)
    """Per layer with a branch: fraction of mask entries that survive on validation images."""

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, data: object) -> object:
        """Take the fields of version 1, one per metric, as the mapping of today."""
        if not isinstance(data, dict) or "metrics" in data:
            return data
        others = {name: value for name, value in data.items() if name not in VERSION_1}
        return {**others, "metrics": {name: data[name] for name in VERSION_1 if name in data}}

    @model_validator(mode="after")
    def _has_the_metrics_of_the_loop(self) -> "EpochMetrics":
        for name in LOOP_METRICS:
            if name not in self.metrics:
                raise ConfigError(f"metrics.{name}", "is required")
        return self

    def to_line(self) -> str:
        """Return the metrics as one line of JSON."""
        return json.dumps(self.to_data())
