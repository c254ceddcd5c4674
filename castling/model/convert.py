"""Models of timm with converted attention layers, built from their configs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from castling.config import BackboneConfig, LayerChoice
from castling.model.adapters.sites import AttentionSites, sites_of
from castling.model.adapters.spec import KEEP
from castling.model.sizes import hold_image_size, holds_grid
from castling.model.timm_models import create, create_with
from castling.untrusted.timm_checkpoint import read_timm_checkpoint


def build_backbone(
    config: BackboneConfig, *, weights: str | Path | None = None, **finding: Any
) -> nn.Module:
    """Return the training model of a config, in training mode; see `castling.convert_backbone`."""
    options = {
        "img_size": config.image_size,
        "in_chans": config.channels,
        "num_classes": config.num_classes,
        **config.options,
        **finding,
    }
    if weights is None:
        model = create(config.backbone, **options)
    else:
        path = Path(weights)
        model = create_with(path, read_timm_checkpoint(path), config.backbone, **options)
    return convert_layers(model, sites_of(config), config.blocks, config.image_size, config)


def stock_config(config: BackboneConfig) -> BackboneConfig:
    """Return the config of timm's own model: softmax in every layer."""
    return config.replace(blocks=tuple(LayerChoice(operator=KEEP) for _ in config.blocks))


def convert_layers(
    model: Any,
    sites: AttentionSites,
    choices: Sequence[LayerChoice],
    image_size: tuple[int, int],
    config: BackboneConfig | None,
) -> nn.Module:
    """Convert a model's attention layers in place, each to its choice; return the model.

    Args:
        model: of timm, with the attention that the sites name.
        sites: its attention layers.
        choices: one for each, which it can take.
        image_size: height and width that the model is for.
        config: the new `model.config`; None for a model without one.
    """
    held = False
    for layer, choice in zip(sites.layers, choices, strict=True):
        if choice.operator != KEEP:
            converted = layer.converted(model.get_submodule(layer.name), choice)
            model.set_submodule(layer.name, converted)
            held |= holds_grid(converted) and not layer.sees_sides
    if held:  # sides that the layers cannot check
        hold_image_size(model, image_size)
    model.config = config
    if config is not None and isinstance(getattr(model, "pretrained_cfg", None), dict):
        shape = (config.channels, *config.image_size)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": shape}
        model.pretrained_cfg["num_classes"] = config.num_classes
        model.default_cfg = model.pretrained_cfg
    return model
