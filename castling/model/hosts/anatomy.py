"""The anatomy of a timm model: its attention layers in order, and what everything else costs."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn

from castling.config import LayerChoice, StockBackbone
from castling.costs.count import macs_by_module
from castling.errors import ConfigError
from castling.model.bounds import bounded
from castling.model.hosts.refused import REFUSED_KINDS
from castling.model.hosts.spec import HOSTS, AttentionLayer, Call, Host, num_params
from castling.operators import OPERATORS


_Given = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A model's attention layers, first to last, and the cost of all the rest."""

    backbone: str
    """What errors call the model."""
    layers: tuple[AttentionLayer, ...]
    fixed_macs: int
    """Multiply-accumulates per image outside the attention layers."""
    fixed_params: int
    """Parameters outside the attention layers."""
    refused: Mapping[str, str]
    """Attention that stays as it is: its path in the model, and why."""

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
            rule = layer.objection(choice)
            if not OPERATORS[choice.operator].searchable:
                rule = "must be one that needs no settling, in a backbone"
            if rule:
                raise ConfigError(f"blocks.{index}.operator", rule, choice.operator)


def anatomy_of(model: StockBackbone) -> Anatomy:
    """Return the anatomy of a config's model; it is built without weights, once per process.

    Raises:
        ConfigError: when timm has no such model, or it has no attention that can castle, or the
            image size or an option does not fit it.
    """
    options = json.dumps(model.options, sort_keys=True)
    return _anatomy(model.backbone, model.image_size, model.channels, model.num_classes, options)


@lru_cache(maxsize=64)
def _anatomy(
    backbone: str, image_size: tuple[int, int], channels: int, num_classes: int, options: str
) -> Anatomy:
    with torch.device("meta"):
        model = create(
            backbone,
            img_size=image_size,
            in_chans=channels,
            num_classes=num_classes,
            **json.loads(options),
        )
    return examine(model, backbone, (channels, *image_size))


def create(backbone: str, /, **options: Any) -> nn.Module:
    """Return a model of timm.

    Args:
        backbone: timm's name of the architecture.
        options: what timm's constructor takes; `img_size` is left out where the constructor has
            no such argument: what sizes fit is then seen when the model is examined.

    Raises:
        ConfigError: when there is no such model or an option does not fit it.
    """
    if not timm.is_model(backbone):
        close = get_close_matches(backbone, timm.list_models(), n=4)
        fix = f"did you mean {', '.join(close)}" if close else "timm.list_models() lists them"
        raise ConfigError("backbone", "must be one of timm's models", backbone, fix)
    try:
        with bounded("backbone"):
            return _create(backbone, options)
    except ConfigError:
        raise
    except (TypeError, ValueError, AssertionError, RuntimeError, LookupError) as error:
        plain = {
            name: value for name, value in options.items() if not name.startswith("pretrained")
        }
        given = ", ".join(f"{name}={value}" for name, value in plain.items())
        rule = f"{backbone} cannot be built with {given} ({first_line(error)})"
        raise ConfigError("backbone", rule) from error


def first_line(error: BaseException, limit: int = 160) -> str:
    """Return what an error of torch's or timm's says, as part of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Error(s) in loading")]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _create(backbone: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        return timm.create_model(backbone, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    fitting = {name: value for name, value in options.items() if name != "img_size"}
    return timm.create_model(backbone, **fitting)


class NoAttentionError(ConfigError):
    """No attention of a model can castle."""

    def __init__(self, backbone: str, refused: Mapping[str, str]) -> None:
        why = next((f": {name} {reason}" for name, reason in refused.items()), "")
        super().__init__("backbone", f"must have attention that can castle{why}", backbone)
        self.args = (backbone, refused)  # with which it is unpickled
        self.refused = refused


def examine(model: nn.Module, backbone: str, image_shape: tuple[int, int, int]) -> Anatomy:
    """Return the anatomy of a model on the meta device.

    One forward pass without arithmetic shows what every attention is called with, and what the
    parts that castling leaves as they are cost.

    Args:
        model: on the meta device; put into eval mode, and its parameters want no gradient.
        backbone: what errors call the model.
        image_shape: (channel, height, width).

    Raises:
        NoAttentionError: when no attention can castle.
        ConfigError: when the image does not fit the model.
    """
    calls: dict[str, list[_Given]] = {}
    hosts = dict(_known(model))
    strangers = dict(_strangers(model, hosts))
    if not hosts:
        raise NoAttentionError(backbone, strangers)
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_pre_hook(
            lambda _, given, named, name=name: calls.setdefault(name, []).append((given, named)),
            with_kwargs=True,
        )
        for name in hosts
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
    for name, host in hosts.items():
        found = _layer(name, host, calls.get(name, []), model, macs)
        if isinstance(found, str):
            refused[name] = found
        else:
            layers.append(found)
    refused |= strangers
    if not layers:
        raise NoAttentionError(backbone, refused)
    return Anatomy(
        backbone=backbone,
        layers=tuple(layers),
        fixed_macs=macs[""] - sum(layer.stock_macs for layer in layers),
        fixed_params=num_params(model) - sum(layer.stock_params for layer in layers),
        refused=refused,
    )


def attentions(model: nn.Module) -> list[str]:
    """Return the paths of a model's attentions, of kinds known and unknown."""
    known = dict(_known(model))
    return [*known, *dict(_strangers(model, known))]


def _known(model: nn.Module) -> Iterator[tuple[str, Host]]:
    """Yield path and host of every attention of a known kind, in the model's order."""
    for name, module in model.named_modules():
        for host in HOSTS.values():
            if host.knows(module):
                yield name, host
                break


def _strangers(model: nn.Module, hosts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield path and reason of modules that call themselves attention and are of no known kind.

    Of attentions within attentions the innermost counts: the others hold it.
    """
    strangers = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if _says_attention(type(module).__name__)
    }
    known = set(hosts)
    within = {above for name in (*strangers, *known) for above in _above(name)}
    for name, kind in strangers.items():
        if name not in known | within and known.isdisjoint(_above(name)):
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
    host: Host,
    calls: Sequence[_Given],
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
    return host.layer(call)
