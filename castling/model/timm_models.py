"""Builds timm's models by name, and loads checkpoints with timm's filters."""

import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from castling.errors import CheckpointError, ConfigError
from castling.untrusted.bounds import bounded


def create(backbone: str, /, **options: Any) -> nn.Module:
    """Return a model of timm.

    Args:
        backbone: timm's name of the architecture.
        options: arguments of timm's constructor; `img_size` is left out if the constructor has no
            such argument: whether the size fits shows when the model is examined.

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
        arguments = ", ".join(f"{name}={value}" for name, value in plain.items())
        rule = f"{backbone} cannot be built with {arguments} ({first_line(error)})"
        raise ConfigError("backbone", rule) from error


def first_line(error: BaseException, limit: int = 160) -> str:
    """Return the message of an error of torch or timm as part of a sentence."""
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


def create_with(
    weights: Path, tensors: Mapping[str, Tensor], backbone: str, /, **options: Any
) -> nn.Module:
    """Return a model of timm with the weights of a checkpoint, adapted as in timm.

    timm loads strictly if the classes are those of the checkpoint, and ignores missing weights if
    they are not. In that case the checkpoint must first load strictly into a model with its
    classes on the meta device.

    Args:
        weights: the checkpoint's file, for the error.
        tensors: what the file holds.
        backbone: timm's name of the architecture.
        options: as of `create`.

    Raises:
        CheckpointError: when it is of another model, or misses a weight.
    """
    classes = checkpoint_classes(tensors, backbone)
    strictly = {**options, "num_classes": classes or 0}
    try:
        if _classifiers(backbone) and options.get("num_classes") != classes:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that tensors without values are not copied
                _create_with(tensors, backbone, classes or 0, strictly)
        return _create_with(tensors, backbone, classes, options)
    except ConfigError as error:  # its words list all options, the weights among them
        reason = first_line(error.__cause__ or error)
        raise CheckpointError(str(weights), f"it holds no {backbone} ({reason})") from None


def _create_with(
    tensors: Mapping[str, Tensor], backbone: str, classes: int | None, options: Mapping[str, Any]
) -> nn.Module:
    overlay: dict[str, Any] = {"state_dict": dict(tensors), "custom_load": False}
    overlay |= {} if classes is None else {"num_classes": classes}
    return create(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)


def checkpoint_classes(tensors: Mapping[str, Tensor], backbone: str) -> int | None:
    """Return the number of classes of a checkpoint of timm, None if it does not show it."""
    for name in _classifiers(backbone):
        if f"{name}.weight" in tensors:
            return tensors[f"{name}.weight"].shape[0]
    return None


def _classifiers(backbone: str) -> tuple[str, ...]:
    """Return the paths of a model's classifiers, as timm knows them."""
    pretrained = timm.get_pretrained_cfg(backbone)
    named: Any = pretrained.classifier if pretrained else None
    return (named,) if isinstance(named, str) else tuple(named or ())
