"""Configs of models, trainings and data: frozen, plain data with ranges, read from YAML.

`castling.model.check` checks whether the model of a config can be built.
"""

from castling.config.augment import AugmentConfig
from castling.config.base import Config, Mark, Positive
from castling.config.data import DataConfig, Normalisation
from castling.config.distill import DistillConfig
from castling.config.layer import OPERATOR_FIELDS, BlockConfig, LayerChoice, MaskSchedule
from castling.config.model import (
    Architecture,
    BackboneConfig,
    ModelConfig,
    Side,
    StockBackbone,
    pair,
)
from castling.config.preprocessing import Preprocessing
from castling.config.run import DEFAULT_TASK, RunConfig
from castling.config.train import TrainConfig


__all__ = [
    "DEFAULT_TASK",
    "OPERATOR_FIELDS",
    "Architecture",
    "AugmentConfig",
    "BackboneConfig",
    "BlockConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "LayerChoice",
    "Mark",
    "MaskSchedule",
    "ModelConfig",
    "Normalisation",
    "Positive",
    "Preprocessing",
    "RunConfig",
    "Side",
    "StockBackbone",
    "TrainConfig",
    "pair",
]
