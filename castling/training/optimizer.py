"""The optimiser's groups of parameters, and the images of each of its steps."""

from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from castling.config import TrainConfig
from castling.errors import ConfigError
from castling.operators.modules.gates import Gates


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return AdamW's groups: weights with decay, all other parameters, and the gates.

    Weight decay applies to parameters that are named `weight` and have two axes or more. `rate` is
    a group's multiple of the scheduled learning rate: `train.gate_rate` for gates, 1 otherwise.
    """
    spared = [name for name, _ in model.named_parameters() if not name.endswith("weight")]
    gates = {id(part) for gate in model.modules() if isinstance(gate, Gates) for part in [gate.t]}
    groups: list[dict[str, Any]] = []
    for group in param_groups_weight_decay(
        model, config.weight_decay, no_weight_decay_list=spared
    ):
        parts = [part for part in group["params"] if id(part) not in gates]
        groups.append({**group, "params": parts, "rate": 1.0})
        moved = [part for part in group["params"] if id(part) in gates]
        if moved:
            groups.append({**group, "params": moved, "rate": config.gate_rate})
    return groups


def batch_sizes(model: nn.Module, num_images: int, batch_size: int) -> list[int]:
    """Return the number of images of every step of an epoch; the last step has the remainder.

    If the model has batch norms, which need at least two images, a single remaining image joins
    the step before.

    Raises:
        ConfigError: when such a model is to train on one image at a time.
    """
    *whole, last = [len(rows) for rows in torch.arange(num_images).split(batch_size)]
    if last > 1 or not any(isinstance(part, _BatchNorm) for part in model.modules()):
        return [*whole, last]
    if batch_size == 1 or not whole:
        raise ConfigError(
            "train.batch_size",
            "must be at least 2, of at least 2 images, for a model with batch norms",
            min(batch_size, num_images),
        )
    return [*whole[:-1], whole[-1] + last]
