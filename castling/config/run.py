"""One complete training as plain data."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from castling.config.base import Config, Mark
from castling.config.data import DataConfig
from castling.config.model import Architecture, ModelConfig, model_from_data
from castling.config.train import TrainConfig


class RunConfig(Config):
    """One complete training: model, training scheme, data."""

    model: Annotated[Architecture, BeforeValidator(model_from_data)] = Field(
        default_factory=ModelConfig
    )
    """A CastlingViT, or with the field `backbone` a model of timm."""
    train: Annotated[TrainConfig, Mark.COSTS_NOTHING] = TrainConfig()
    data: Annotated[DataConfig, Mark.COSTS_NOTHING, Mark.SET_BY_DATA] = DataConfig()
