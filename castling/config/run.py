"""One complete training as plain data."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from castling.config.base import Config, Mark
from castling.config.data import DataConfig
from castling.config.model import Architecture, ModelConfig, model_from_data
from castling.config.train import TrainConfig


DEFAULT_TASK = "classification"


class RunConfig(Config):
    """One complete training: model, training scheme, data, task."""

    model: Annotated[Architecture, BeforeValidator(model_from_data)] = Field(
        default_factory=ModelConfig
    )
    """A CastlingViT, or with the field `backbone` a model of timm."""
    train: Annotated[TrainConfig, Mark.COSTS_NOTHING] = TrainConfig()
    data: Annotated[DataConfig, Mark.COSTS_NOTHING, Mark.SET_BY_DATA] = DataConfig()
    task: str = DEFAULT_TASK
    """The task: classification, or one of a plugin."""

    def to_data(self) -> dict[str, Any]:
        """Return plain values, without the default task, a field that version 0.1 did not have."""
        data = super().to_data()
        if self.task == DEFAULT_TASK:
            del data["task"]
        return data
