"""The metrics of an exported model, in metrics.json of its folder."""

import json
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from castling.config import Config
from castling.errors import ConfigError, RunFolderError


METRICS_FILE = "metrics.json"
LARGEST_METRICS = 2**16
"""Largest size of metrics.json in bytes; a usual one has 700."""


class ModelMetrics(Config):
    """The metrics of an exported model, in metrics.json of its folder."""

    model_config = ConfigDict(strict=True)

    primary: str = "top1"
    """The metric of the task that displays show."""
    validation: dict[str, float]
    """The task's metrics on the validation images, by name."""
    test: dict[str, float]
    """The same on the test images, computed once, when the model was exported."""
    macs: int
    """Multiply-accumulates per image, counted by fvcore on the exported model."""
    params: int
    """Parameters."""
    data: str
    """Name of the dataset."""
    trained_by: str
    """The run and trial, or the config, that the model comes from."""
    epochs: int
    """Epochs trained."""
    castling_version: str
    """Version of castling-nas that wrote the folder."""
    exported_at: str
    """ISO 8601, UTC."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Metrics of other packages, on the validation images, by name."""
    validation_branch: float | None = None
    """The primary metric on the validation images with the auxiliary branch; null without one."""
    mask_density: float | None = None
    """Mean fraction of the masks' entries that survived at the end; null without masks."""
    mask_threshold: float | None = None
    """Lowest threshold of the masks at the end, empty at 1; null without masks."""
    masks: str = ""
    """One sentence where masks were alive at the end, so that castling changed the model."""
    images: dict[str, str] = Field(default_factory=dict)
    """Number and hash of the images of every split, by which a later evaluation sees changes."""
    device: str = "cpu"
    """Where the accuracies were measured: cpu or cuda; the two may round differently."""

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, data: object) -> object:
        """Take the fields of version 0.1, which had the one metric top1, as those of today."""
        if not isinstance(data, dict) or "validation" in data:
            return data
        taken = {name: value for name, value in data.items() if not name.startswith("top1_")}
        for name in ("validation", "test"):
            if f"top1_{name}" in data:
                taken[name] = {"top1": data[f"top1_{name}"]}
        return taken | {"validation_branch": data.get("top1_validation_branch")}

    @model_validator(mode="after")
    def _has_its_primary_metric(self) -> Self:
        for name, values in (("validation", self.validation), ("test", self.test)):
            if self.primary not in values:
                raise ConfigError(f"{name}.{self.primary}", "is required")
        return self

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the metrics of an exported folder.

        Raises:
            RunFolderError: when there are none, or they are unreadable.
        """
        path = folder / METRICS_FILE
        try:
            with path.open("rb") as file:
                return cls.from_data(json.loads(file.read(LARGEST_METRICS)))
        except OSError as error:
            reason = f"has no readable {METRICS_FILE} ({error.strerror})"
        except ConfigError as error:
            reason = f"has a damaged {METRICS_FILE} ({_problem(error)})"
        except (ValueError, RecursionError) as error:
            reason = f"has a damaged {METRICS_FILE} ({error})"
        raise RunFolderError(str(folder), reason, "export the model again") from None


def _problem(error: ConfigError) -> str:
    """Return what is wrong with metrics.json, such as the type that a field must have."""
    field = ModelMetrics.model_fields.get(error.field)
    if field is None or error.rule == "is required":
        return str(error)
    kind = getattr(field.annotation, "__name__", field.annotation)
    return f"{error.field} must be of type {kind}, got {error.value!r:.80}"
