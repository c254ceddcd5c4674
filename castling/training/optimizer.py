"""The optimiser with its groups of parameters, and the images of each of its steps."""

from collections.abc import Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from castling.config import TrainConfig
from castling.errors import ConfigError
from castling.operators.modules.gates import Gates


FUSED = frozenset({"adamw", "adam", "sgd"})
"""Optimisers that are torch's own and update all weights in one kernel."""
OPTIONS = {
    "betas": frozenset({"adamw", "adam", "nadamw", "lamb", "lion", "muon"}),
    "momentum": frozenset({"sgd", "rmsproptf", "muon"}),
    "eps": frozenset({"adamw", "adam", "nadamw", "lamb", "muon", "rmsproptf"}),
}
"""Which optimisers have which of the config's options."""


def make_optimizer(
    model: nn.Module, extra: nn.Module | None, config: TrainConfig
) -> torch.optim.Optimizer:
    """Return timm's optimiser of a config, for a model and what is trained together with it.

    Raises:
        ConfigError: when the optimiser has not an option that is set, or the model has no layers
            over which `train.layer_decay` could fall.
    """
    groups = parameter_groups(model, config)
    if extra is not None:  # new, and nearest to the loss: it has no layers
        groups += parameter_groups(extra, config.replace(layer_decay=None))
    options: dict[str, Any] = {}
    for name, having in OPTIONS.items():
        value = getattr(config, name)
        if value is None:
            continue
        if config.optimizer not in having:
            rule = f"must be null for {config.optimizer}; {', '.join(sorted(having))} have it"
            raise ConfigError(f"train.{name}", rule, value)
        options[name] = value
    if config.optimizer in FUSED:
        options["fused"] = True
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, config.optimizer, lr=0.0, weight_decay=config.weight_decay, **options
    )
    return optimizer


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the optimiser's groups: weights with decay, all other parameters, and the gates.

    Weight decay applies to parameters that are named `weight` and have two axes or more. `rate` is
    a group's multiple of the scheduled learning rate: 1, or with `train.layer_decay` a power of
    it; for gates times `train.gate_rate`.
    """
    spared = [name for name, _ in model.named_parameters() if not name.endswith("weight")]
    gates = {id(part) for gate in model.modules() if isinstance(gate, Gates) for part in [gate.t]}
    groups: list[dict[str, Any]] = []
    for group in _decayed(model, config, spared):
        rate = group.pop("lr_scale", 1.0)
        parts = [part for part in group["params"] if id(part) not in gates]
        groups.append({**group, "params": parts, "rate": rate})
        moved = [part for part in group["params"] if id(part) in gates]
        if moved:
            groups.append({**group, "params": moved, "rate": rate * config.gate_rate})
    return groups


def _decayed(model: nn.Module, config: TrainConfig, spared: list[str]) -> Iterable[dict[str, Any]]:
    """Return timm's groups by weight decay, and by layer where the rate falls over layers."""
    decay = config.weight_decay
    if config.layer_decay is None:
        return list(param_groups_weight_decay(model, decay, no_weight_decay_list=spared))
    if not hasattr(model, "group_matcher"):
        rule = f"must be null for {type(model).__name__}: it does not say which layers it has"
        fix = "give the model timm's method group_matcher"
        raise ConfigError("train.layer_decay", rule, config.layer_decay, fix)
    return list(
        param_groups_layer_decay(
            model, decay, no_weight_decay_list=spared, layer_decay=config.layer_decay
        )
    )


def batch_sizes(
    model: nn.Module, num_images: int, batch_size: int, num_processes: int = 1
) -> list[int]:
    """Return the number of images of every step of an epoch; the last step has the remainder.

    If the model has batch norms, which need at least two images in each process, a remainder of
    fewer joins the step before.

    Raises:
        ConfigError: when a process is to train such a model on one image at a time.
    """
    *whole, last = [len(rows) for rows in torch.arange(num_images).split(batch_size)]
    fewest = 2 * num_processes
    if last >= fewest or not has_batch_norms(model):
        return [*whole, last]
    if batch_size < fewest or not whole:
        raise ConfigError(
            "train.batch_size",
            f"must be at least {fewest}, of at least {fewest} images, for a model with batch norms"
            + (f" in {num_processes} processes" if num_processes > 1 else ""),
            min(batch_size, num_images),
        )
    return [*whole[:-1], whole[-1] + last]


def has_batch_norms(model: nn.Module) -> bool:
    """Return whether a model normalises over the images of a batch."""
    return any(isinstance(part, _BatchNorm) for part in model.modules())
