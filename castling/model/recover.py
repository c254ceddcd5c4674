"""Recovers the config of a model of timm that was built without one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from castling.config import BackboneConfig, LayerChoice
from castling.errors import ConfigError
from castling.model.check import check
from castling.model.structure import structure
from castling.model.timm_models import create


def image_shape(
    model: nn.Module, image_size: int | tuple[int, int] | None
) -> tuple[int, int, int]:
    """Return the (channel, height, width) of a model's images."""
    pretrained = getattr(model, "pretrained_cfg", None) or {}
    channels, *size = pretrained.get("input_size", (3, 224, 224))
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    if convolutions:
        channels = convolutions[0].in_channels
    patches = getattr(getattr(model, "patch_embed", None), "img_size", None)
    sides = image_size or patches or size
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return channels, height, width


def recovered_config(
    model: nn.Module, shape: tuple[int, int, int], choices: Sequence[LayerChoice]
) -> BackboneConfig | None:
    """Return the config that builds a model anew, or None where it would build another.

    It is the one that the model was built from, or else timm's defaults for its architecture,
    with another pooling where `reset_classifier` has changed that.
    """
    built_from = getattr(model, "config", None)
    options = built_from.options if isinstance(built_from, BackboneConfig) else {}
    for pooling in _poolings(model):
        config = _config(model, shape, choices, {**options, **pooling})
        if config is not None:
            return config
    return None


def _poolings(model: nn.Module) -> list[dict[str, Any]]:
    """Return the options of timm's constructors that may give a model its pooling."""
    pooling = getattr(model, "global_pool", None)
    if not isinstance(pooling, str):
        return [{}]
    return [{}, {"global_pool": pooling}, {"global_pool": pooling, "fc_norm": False}]


def _config(
    model: nn.Module,
    shape: tuple[int, int, int],
    choices: Sequence[LayerChoice],
    options: Mapping[str, Any],
) -> BackboneConfig | None:
    """Return the config of a model with some options, or None where it builds another."""
    pretrained: Any = getattr(model, "pretrained_cfg", None) or {}
    try:
        config = BackboneConfig(
            backbone=pretrained.get("architecture", ""),
            image_size=shape[1:],
            channels=shape[0],
            num_classes=getattr(model, "num_classes", 0),
            options=dict(options),
            blocks=tuple(choices),
        )
        check(config)
        with torch.device("meta"):
            anew = create(
                config.backbone, img_size=shape[1:], in_chans=shape[0],
                num_classes=config.num_classes, **options,
            )  # fmt: skip
    except (ConfigError, KeyError):
        return None
    return config if structure(anew) == structure(model) else None
