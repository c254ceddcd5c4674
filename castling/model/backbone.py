"""Converts models of timm in place: DeiT, LeViT, MViTv2, Swin and all others with an adapter."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from castling.config import BackboneConfig, LayerChoice, StockBackbone
from castling.errors import ConfigError
from castling.model.adapters.sites import AttentionSites, examine, sites_of
from castling.model.check import check, check_layer
from castling.model.convert import build_backbone, convert_layers
from castling.model.keep import keep_weights
from castling.model.recover import image_shape, recovered_config
from castling.model.vit import CastlingViT


Choice = str | Mapping[str, Any] | LayerChoice
"""An operator's name, or the fields of a LayerChoice, or one."""

WEIGHT_OPTIONS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of timm's `create_model` that select weights; a config does not store them."""


def convert_backbone(
    backbone: str | nn.Module,
    choice: Choice | Sequence[Choice],
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Return a model whose attention layers have the chosen operators.

    Layers of timm's models are replaced in place. Every weight of timm that the choice can use
    stays under timm's name. A layer whose choice is `softmax` is not changed: a model of such
    layers equals timm's, bit for bit. The model trains as any other; `castling.set_progress` moves
    the masks, `castling.castle` drops the branches, `castling.save` writes what timm can build
    anew.

    Args:
        backbone: timm's name of an architecture, or a model of timm, which is changed; or a
            CastlingViT, which is not: the model returned is another, with its weights.
        choice: one for all attention layers, or one per layer, first to last.
        image_size: pixels, height and width or a square's side; by default that of the model.
        weights: a checkpoint of timm, .safetensors or .pth, with initial weights. A classifier for
            other classes stays random, as in timm.
        options: of `timm.create_model`, for a name: pretrained, num_classes, drop_path_rate...

    Raises:
        ConfigError: when there is no such model, none of its attention can be converted, the
            number of choices is not that of the layers, or a layer cannot take its choice.
        CheckpointError: when the weights are missing, truncated or of another model.
    """
    if isinstance(backbone, nn.Module):
        if options or weights is not None:
            refused = sorted(options) + ["weights"] * (weights is not None)
            raise ConfigError("options", "must be left out for a model that is built", refused)
        if isinstance(backbone, CastlingViT):
            return _convert_vit(backbone, choice)
        return _convert_module(backbone, choice, image_size)
    finding = {name: options.pop(name) for name in WEIGHT_OPTIONS if name in options}
    config = backbone_config(backbone, choice, image_size=image_size, **options)
    check(config)
    return build_backbone(config, weights=weights, **finding)


def backbone_config(
    backbone: str,
    choice: Choice | Sequence[Choice],
    *,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> BackboneConfig:
    """Return the config of a converted model of timm; arguments as of `convert_backbone`."""
    stock = stock_backbone(backbone, image_size=image_size, **options)
    return BackboneConfig(**dict(stock), blocks=layer_choices(choice, sites_of(stock)))


def stock_backbone(
    backbone: str, *, image_size: int | tuple[int, int] | None = None, **options: Any
) -> StockBackbone:
    """Return the config of an unconverted model, by default with timm's sizes."""
    pretrained = timm.get_pretrained_cfg(backbone) if timm.is_model(backbone) else None
    channels, *size = pretrained.input_size if pretrained else (3, 224, 224)
    sides: Any = image_size or options.pop("img_size", None) or tuple(size)
    return StockBackbone(
        backbone=backbone,
        image_size=sides,
        channels=options.pop("in_chans", channels),
        num_classes=options.pop("num_classes", pretrained.num_classes if pretrained else 1000),
        options=options,
    )


def layer_choices(
    choice: Choice | Sequence[Choice], sites: AttentionSites
) -> tuple[LayerChoice, ...]:
    """Return one choice per attention layer; a single one is for all."""
    return _choices(choice, len(sites.layers))


def _choices(choice: object, num_layers: int) -> tuple[LayerChoice, ...]:
    if isinstance(choice, str | Mapping | LayerChoice):
        return (_layer_choice(choice),) * num_layers
    if not isinstance(choice, Sequence):
        return (_layer_choice(choice),)  # which refuses it
    return tuple(_layer_choice(one) for one in choice)


def _layer_choice(choice: object) -> LayerChoice:
    if isinstance(choice, str):
        return LayerChoice(operator=choice)
    if isinstance(choice, Mapping):
        return LayerChoice.from_data(choice)
    if not isinstance(choice, LayerChoice):
        rule = "must be an operator's name, a LayerChoice, or one of them for each layer"
        raise ConfigError("choice", rule, choice)
    return choice


def _convert_module(
    model: nn.Module,
    choice: Choice | Sequence[Choice],
    image_size: int | tuple[int, int] | None,
) -> nn.Module:
    name = type(model).__name__
    shape = image_shape(model, image_size)
    sites = examine(copy.deepcopy(model).to("meta"), name, shape)
    choices = layer_choices(choice, sites)
    for one in choices:
        check_layer(one)
    sites.check(choices)
    config = recovered_config(model, shape, choices)
    return convert_layers(model, sites, choices, shape[1:], config)


def _convert_vit(model: CastlingViT, choice: Choice | Sequence[Choice]) -> CastlingViT:
    """Return a CastlingViT of other choices, with every weight that both have."""
    blocks = model.config.blocks
    choices = _choices(choice, len(blocks))
    if len(choices) != len(blocks):
        rule = f"must have one choice for each of the {len(blocks)} attention layers"
        raise ConfigError("blocks", rule, len(choices))
    changed = [
        block.replace(**{name: getattr(one, name) for name in LayerChoice.model_fields})
        for block, one in zip(blocks, choices, strict=True)
    ]
    config = model.config.replace(blocks=tuple(changed))
    check(config)
    converted = CastlingViT(config)
    keep_weights(converted, model.state_dict())
    return converted.to(next(model.parameters()).device)
