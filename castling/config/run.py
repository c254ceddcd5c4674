"""One complete training as plain data."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from castling.config.base import Config, Mark
from castling.config.data import DataConfig
from castling.config.model import Architecture, ModelConfig, model_from_data
from castling.config.preprocessing import Preprocessing
from castling.config.train import TrainConfig


DEFAULT_TASK = "classification"


class RunConfig(Config):
    """One complete training: model, training scheme, data, task."""

    model: Annotated[Architecture, BeforeValidator(model_from_data)] = Field(
        default_factory=ModelConfig
    )
    """A CastlingViT, or with the field `backbone` a model of timm."""
    train: Annotated[TrainConfig, Mark.COSTS_NOTHING] = TrainConfig()
    """How it is trained: optimiser, schedule, augmentation, seed."""
    data: Annotated[DataConfig, Mark.COSTS_NOTHING, Mark.SET_BY_DATA] = DataConfig()
    """Which images it is trained on, and how they are split and prepared."""
    task: str = DEFAULT_TASK
    """The task: classification, or one of a plugin."""
    preprocessing: Annotated[Preprocessing | None, Mark.COSTS_NOTHING, Mark.SET_BY_DATA] = None
    """How the trained model's images are prepared, and its classes; a training writes it with its
    model, as the data and the initial weights say. null in the config of a training."""

    def to_data(self) -> dict[str, Any]:
        """Return plain values, without fields that version 0.1 did not have at their defaults."""
        data = super().to_data()
        for name in ("task", "preprocessing"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del data[name]
        return data
