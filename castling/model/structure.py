"""The structure of a model: what of it decides its outputs besides its weights."""

from typing import Any

from timm.layers import DropPath
from torch import nn

from castling.operators.modules.training_only import TrainingOnly


TRAINING_ONLY = ("drop", "checkpoint", "training", "fused")
"""Parts of the names of attributes that change no output in evaluation mode."""


def structure(model: nn.Module) -> dict[str, object]:
    """Return a signature that is equal for models that compute the same at inference.

    It holds classes, what they say of themselves, plain attributes such as the `global_pool` of
    timm's models, and the shapes of all weights; not the weights.
    """
    parts = {
        path: (type(part).__name__, part.extra_repr())
        for path, part in model.named_modules()
        if not isinstance(part, nn.Dropout | nn.Identity | DropPath)
    }
    return parts | plain_attributes(model) | shapes(model)


def shapes(model: nn.Module) -> dict[str, object]:
    """Return the shapes of all weights, by path."""
    return {path: tensor.shape for path, tensor in model.state_dict().items()}


def plain_attributes(model: nn.Module) -> dict[str, object]:
    """Return the numbers, words and tuples of them that a model's parts hold, by path.

    A forward pass may depend on them, and neither classes nor weights show them. What works in
    training only is left out.
    """
    parts = dict(model.named_modules())
    idle = tuple(f"{path}." for path, part in parts.items() if isinstance(part, TrainingOnly))
    return {
        f"{path}:{name}": value
        for path, part in parts.items()
        if not isinstance(part, nn.Dropout | nn.Identity | DropPath)
        if not f"{path}.".startswith(idle)
        for name, value in vars(part).items()
        if not name.startswith("_") and _is_plain(value)
        if not any(word in name for word in TRAINING_ONLY)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
