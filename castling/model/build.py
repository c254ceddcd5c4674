"""From a config to its training model, and back from a model to its config."""

import torch
from torch import nn

from castling.config import Architecture
from castling.errors import ConfigError
from castling.model.architecture import architecture_of
from castling.model.check import check
from castling.model.wrapped import unwrapped
from castling.untrusted.bounds import bounded


def build(config: Architecture, *, seed: int | None = None) -> nn.Module:
    """Build the training model of a config, in training mode; `model.config` is the config.

    Args:
        config: the model.
        seed: seed of the initial weights; None draws from torch's global generator.

    Raises:
        ConfigError: when there is no such model, or this machine has not the memory for it.
    """
    if seed is None:
        check(config)
        with bounded("model"):
            return architecture_of(config).build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def config_of(model: nn.Module) -> Architecture:
    """Return the config that a model was built from, also inside a wrapper of torch.

    Raises:
        ConfigError: when it has none: it was not built by castling, nor by timm's defaults.
    """
    config = getattr(unwrapped(model), "config", None)
    if not isinstance(config, Architecture):
        rule = "must be built from a config or from the name of one of timm's models"
        raise ConfigError("model", rule, type(model).__name__)
    return config
