"""The state of a training after an epoch: one safetensors file, to go on from bit for bit."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from castling.errors import CheckpointError
from castling.model.storage import read_tensors, write_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training has come."""

    config_id: str
    """Which training this is; a checkpoint of another one is not used."""
    epochs: int
    """Epochs finished."""
    train_seconds: float
    """Time spent on them."""


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write weights, optimiser state and progress atomically.

    Random numbers need no state: every epoch draws from generators seeded by (seed, epoch).
    """
    tensors: dict[str, Tensor] = {
        f"model.{key}": value for key, value in model.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    note = json.dumps(
        {
            "config_id": progress.config_id,
            "epochs": progress.epochs,
            "train_seconds": progress.train_seconds,
        }
    )
    write_tensors(path, tensors, {"format": "castling-checkpoint", "progress": note})


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config_id: str
) -> Progress:
    """Put a checkpoint's state into model and optimiser and return how far it had come.

    Raises:
        CheckpointError: when the file is missing, truncated or of another training; model and
            optimiser are then unchanged.
    """
    tensors, metadata = read_tensors(path)
    try:
        progress = Progress(**json.loads(metadata["progress"]))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(str(path), "it is not a training checkpoint") from None
    if progress.config_id != config_id:
        raise CheckpointError(str(path), "it belongs to another training")
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            states.setdefault(int(index), {})[key] = tensor
    weights = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    if weights.keys() != model.state_dict().keys():
        raise CheckpointError(str(path), "it belongs to another model")
    model.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    return progress
