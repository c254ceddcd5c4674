"""The two kinds of model as plain data: a CastlingViT, and a model of timm."""

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, field_validator, model_validator

from castling.config.base import Config, Mark
from castling.config.layer import BlockConfig, LayerChoice
from castling.config.limits import (
    LARGEST_IMAGE,
    LARGEST_OPTION,
    LARGEST_SIDE,
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_CLASSES,
    MOST_TOKENS,
    WIDEST,
)
from castling.errors import ConfigError


def pair(value: object) -> object:
    """Return a number twice, as height and width; any other value unchanged."""
    return (value, value) if type(value) is int else value


Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
"""Pixels of a side."""


class ModelConfig(Config):
    """A CastlingViT: everything needed to build it."""

    image_size: Annotated[tuple[Side, Side], BeforeValidator(pair), Mark.SET_BY_DATA] = (8, 8)
    """Height and width in pixels; one number means a square."""
    channels: Annotated[int, Mark.SET_BY_DATA] = Field(default=1, ge=1, le=MOST_CHANNELS)
    """Image channels."""
    num_classes: Annotated[int, Mark.SET_BY_DATA] = Field(default=10, ge=1, le=MOST_CLASSES)
    """Classes."""
    patch_size: Side = 2
    """Side of the square patches in pixels; must divide the image."""
    embed_width: int = Field(default=48, ge=1, le=WIDEST)
    """Channels of a token."""
    pooling: Literal["cls", "mean"] = "mean"
    """What the classifier sees: a class token or the mean over tokens."""
    qkv_bias: bool = True
    """Whether the query, key and value projections have a bias."""
    blocks: tuple[BlockConfig, ...] = Field(
        default_factory=lambda: (BlockConfig(),), min_length=1, max_length=MOST_BLOCKS
    )
    """The blocks, first to last."""

    @model_validator(mode="after")
    def _patches_fit(self) -> "ModelConfig":
        if any(side % self.patch_size for side in self.image_size):
            raise ConfigError(
                "patch_size", f"must divide the image of {self.image_size} pixels", self.patch_size
            )
        height, width = self.image_size
        if height * width // self.patch_size**2 > MOST_TOKENS:
            rule = f"must give at most {MOST_TOKENS:,} patches of {self.image_size} pixels"
            raise ConfigError("patch_size", rule, self.patch_size)
        _check_image(self.channels, self.image_size)
        return self

    def castled(self) -> "ModelConfig":
        """Return the config of the inference model: no block has a training-only branch."""
        return self.replace(blocks=tuple(block.replace(mask=None) for block in self.blocks))


def _check_image(channels: int, image_size: tuple[int, int]) -> None:
    if channels * image_size[0] * image_size[1] > LARGEST_IMAGE:
        rule = f"must be images of at most {LARGEST_IMAGE:,} numbers, over {channels:,} channels"
        raise ConfigError("image_size", rule, image_size)


def _plain_data(value: object) -> object:
    """Return a value as YAML and JSON return it: tuples become lists."""
    try:
        data: object = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ConfigError("", "must be plain data, as YAML holds it", value) from None
    _check_numbers(data)
    return data


def _check_numbers(data: object) -> None:
    """Raise ConfigError if a number in plain data is too large for an option of timm."""
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            _check_numbers(value)
    elif isinstance(data, int | float) and abs(data) > LARGEST_OPTION:
        raise ConfigError("", f"must have numbers of at most {LARGEST_OPTION:,}", data)


_NO_OPTIONS = {
    "img_size": "is set by image_size",
    "in_chans": "is set by channels",
    "num_classes": "is set by num_classes beside options",
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
        "is no part of a model: train.initial names the weights to begin with",
    ),
}
"""Arguments of timm's constructor that a config refuses, and why."""


class StockBackbone(Config):
    """A model of timm as it is: what `timm.create_model` needs to build it."""

    backbone: str
    """timm's name of the architecture: deit_tiny_patch16_224, levit_128, mvitv2_tiny..."""
    image_size: Annotated[tuple[Side, Side], BeforeValidator(pair), Mark.SET_BY_DATA] = (224, 224)
    """Height and width in pixels; one number means a square."""
    channels: Annotated[int, Mark.SET_BY_DATA] = Field(default=3, ge=1, le=MOST_CHANNELS)
    """Image channels."""
    num_classes: Annotated[int, Mark.SET_BY_DATA] = Field(default=1000, ge=0, le=MOST_CLASSES)
    """Classes; 0 leaves out the classifier, as in timm."""
    options: Annotated[dict[str, Any], BeforeValidator(_plain_data)] = Field(default_factory=dict)
    """Further arguments of timm's constructor: drop_path_rate, depth, embed_dim, window_size..."""

    @model_validator(mode="after")
    def _no_option_twice(self) -> "StockBackbone":
        for name in self.options.keys() & _NO_OPTIONS.keys():
            raise ConfigError(f"options.{name}", _NO_OPTIONS[name], fix=f"remove {name!r}")
        _check_image(self.channels, self.image_size)
        return self


class BackboneConfig(StockBackbone):
    """A model of timm with converted attention layers: everything needed to build it."""

    blocks: tuple[LayerChoice, ...]
    """The choice of every attention layer, first to last; softmax leaves timm's layer as it is.
    An operator's name stands for its defaults; in YAML, one choice stands for every layer.
    """

    @field_validator("blocks", mode="before")
    @classmethod
    def _names(cls, choices: object) -> object:
        """Replace an operator's name by the choice with its defaults."""
        if isinstance(choices, str | dict | LayerChoice):
            rule = "must be a list, one choice for each attention layer"
            raise ConfigError("", rule, choices, "YAML and convert_backbone take one for all")
        if isinstance(choices, list | tuple):
            return tuple({"operator": one} if isinstance(one, str) else one for one in choices)
        return choices

    def castled(self) -> "BackboneConfig":
        """Return the config of the inference model: no layer has a training-only branch."""
        return self.replace(blocks=tuple(layer.replace(mask=None) for layer in self.blocks))


Architecture: TypeAlias = ModelConfig | BackboneConfig
"""The config of a model: of a CastlingViT, or of one of timm's."""


def model_from_data(value: object) -> object:
    """Build the config of a model; the field `backbone` tells which of the two."""
    if isinstance(value, ModelConfig | BackboneConfig):
        return value
    kind = BackboneConfig if isinstance(value, dict) and "backbone" in value else ModelConfig
    return kind.from_data(value)
