"""The attention layers of a timm model that can be converted, and the cost of all other parts."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from castling.config import LayerChoice, StockBackbone
from castling.costs.count import macs_by_module
from castling.errors import ConfigError
from castling.model.adapters.refused import REFUSED_KINDS
from castling.model.adapters.spec import (
    ADAPTERS,
    AttentionAdapter,
    AttentionLayer,
    Call,
    num_params,
)
from castling.model.timm_models import create, first_line
from castling.operators import OPERATORS


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSites:
    """A model's attention layers, first to last, and the cost of all other parts."""

    backbone: str
    """The name of the model in errors."""
    layers: tuple[AttentionLayer, ...]
    fixed_macs: int
    """Multiply-accumulates per image outside the attention layers."""
    fixed_params: int
    """Parameters outside the attention layers."""
    refused: Mapping[str, str]
    """Attention that cannot be converted: its path in the model, and why."""

    def check(self, choices: Sequence[LayerChoice]) -> None:
        """Raise ConfigError unless there is a choice for every layer that the layer can take."""
        if len(choices) != len(self.layers):
            raise ConfigError(
                "blocks",
                f"must have one choice for each of the {len(self.layers)} attention layers of "
                f"{self.backbone}",
                len(choices),
            )
        for index, (layer, choice) in enumerate(zip(self.layers, choices, strict=True)):
            rule = layer.incompatibility(choice)
            if not OPERATORS[choice.operator].searchable:
                rule = "must be one that needs no settling, in a backbone"
            if rule:
                raise ConfigError(f"blocks.{index}.operator", rule, choice.operator)


def sites_of(model: StockBackbone) -> AttentionSites:
    """Return the sites of a config's model, which is built once per process, without weights.

    Raises:
        ConfigError: when timm has no such model, it has no attention that can be converted, or the
            image size or an option does not fit it.
    """
    options = json.dumps(model.options, sort_keys=True)
    return _examined(model.backbone, model.image_size, model.channels, model.num_classes, options)


@lru_cache(maxsize=64)
def _examined(
    backbone: str, image_size: tuple[int, int], channels: int, num_classes: int, options: str
) -> AttentionSites:
    with torch.device("meta"):
        model = create(
            backbone,
            img_size=image_size,
            in_chans=channels,
            num_classes=num_classes,
            **json.loads(options),
        )
    return examine(model, backbone, (channels, *image_size))


class NoAttentionError(ConfigError):
    """No attention of a model can be converted."""

    def __init__(self, backbone: str, refused: Mapping[str, str]) -> None:
        why = next((f": {name} {reason}" for name, reason in refused.items()), "")
        super().__init__("backbone", f"must have attention that can be converted{why}", backbone)
        self.args = (backbone, refused)  # with which it is unpickled
        self.refused = refused


def examine(model: nn.Module, backbone: str, image_shape: tuple[int, int, int]) -> AttentionSites:
    """Return the sites of a model on the meta device.

    One forward pass without arithmetic records the arguments of every attention, and the cost of
    the parts that conversion does not change.

    Args:
        model: on the meta device; put into eval mode, and its parameters want no gradient.
        backbone: the name of the model in errors.
        image_shape: (channel, height, width).

    Raises:
        NoAttentionError: when no attention can be converted.
        ConfigError: when the image does not fit the model.
    """
    calls: dict[str, list[_Arguments]] = {}
    adapters = dict(_supported(model))
    unsupported = dict(_unsupported(model, adapters))
    if not adapters:
        raise NoAttentionError(backbone, unsupported)
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_pre_hook(
            lambda _, positional, named, name=name: calls.setdefault(name, []).append(
                (positional, named)
            ),
            with_kwargs=True,
        )
        for name in adapters
    ]
    model.eval().requires_grad_(requires_grad=False)
    try:
        macs = macs_by_module(model, image_shape)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        rule = f"does not fit {backbone} ({first_line(error)})"
        raise ConfigError("image_size", rule, image_shape[1:]) from None
    finally:
        for hook in hooks:
            hook.remove()
    layers, refused = [], {}
    for name, adapter in adapters.items():
        site = _layer(name, adapter, calls.get(name, []), model, macs)
        if isinstance(site, str):
            refused[name] = site
        else:
            layers.append(site)
    refused |= unsupported
    if not layers:
        raise NoAttentionError(backbone, refused)
    return AttentionSites(
        backbone=backbone,
        layers=tuple(layers),
        fixed_macs=macs[""] - sum(layer.stock_macs for layer in layers),
        fixed_params=num_params(model) - sum(layer.stock_params for layer in layers),
        refused=refused,
    )


def attentions(model: nn.Module) -> list[str]:
    """Return the paths of all attentions of a model, with an adapter or without."""
    supported = dict(_supported(model))
    return [*supported, *dict(_unsupported(model, supported))]


def _supported(model: nn.Module) -> Iterator[tuple[str, AttentionAdapter]]:
    """Yield path and adapter of every attention that has one, in the model's order."""
    for name, module in model.named_modules():
        for adapter in ADAPTERS.values():
            if adapter.knows(module):
                yield name, adapter
                break


def _unsupported(model: nn.Module, adapters: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield path and reason of modules named attention that have no adapter.

    Of nested attentions only the innermost counts.
    """
    unsupported = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if _says_attention(type(module).__name__)
    }
    supported = set(adapters)
    within = {above for name in (*unsupported, *supported) for above in _above(name)}
    for name, kind in unsupported.items():
        if name not in supported | within and supported.isdisjoint(_above(name)):
            yield name, REFUSED_KINDS.get(kind, f"is of the unknown kind {kind}")


def _says_attention(kind: str) -> bool:
    said = kind.lower()
    return "attn" in said or "attention" in said or kind in REFUSED_KINDS


def _above(name: str) -> list[str]:
    """Return the paths that a path begins with: a and a.b of a.b.c."""
    steps = name.split(".")
    return [".".join(steps[:length]) for length in range(1, len(steps))]


def _layer(
    name: str,
    adapter: AttentionAdapter,
    calls: Sequence[_Arguments],
    model: nn.Module,
    macs: Mapping[str, int],
) -> AttentionLayer | str:
    if len(calls) != 1:
        return f"is called {len(calls)} times for an image"
    below = {
        path.removeprefix(name).removeprefix("."): count
        for path, count in macs.items()
        if path == name or path.startswith(f"{name}.")
    }
    call = Call(
        name=name,
        module=model.get_submodule(name),
        inputs=calls[0][0],
        model=model,
        macs={"": 0} | below,
        named=calls[0][1],
    )
    return adapter.layer(call)
