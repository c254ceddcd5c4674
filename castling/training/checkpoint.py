"""The state of a training after an epoch: one safetensors file, to go on from bit for bit."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from castling.errors import CheckpointError
from castling.model.keep import strange_progress
from castling.training.metrics import EpochMetrics
from castling.untrusted.tensor_file import bytes_of, read_tensors, write_tensors


PER_WEIGHT, SLACK = 6, 2**20
"""Largest size of a checkpoint: numbers per weight, and bytes of everything else."""
EXTRA = "beside."
"""Prefix of the extra module's tensors; the name dates from version 0.1, whose files are read."""


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    metrics: EpochMetrics,
    config_id: str,
    extra: nn.Module | None = None,
) -> None:
    """Write weights, optimiser state and the last epoch's metrics atomically.

    The previous checkpoint stays in the folder, in case the disk damages this one.
    Random numbers need no state: every epoch draws from generators seeded by (seed, epoch).
    `extra` is a module that is trained together with the model but not exported.
    """
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= _extra_tensors(extra)
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    note = {"config_id": config_id, "metrics": metrics.to_line()}
    written = _next_checkpoint(path)
    write_tensors(written, tensors, {"format": "castling-checkpoint", **note})
    with suppress(FileNotFoundError):
        path.replace(previous_checkpoint(path))
    written.replace(path)


def previous_checkpoint(path: Path) -> Path:
    """Return where the checkpoint before the one of a path is."""
    return path.with_suffix(f".previous{path.suffix}")


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and the one before it, as far as they are there."""
    for file in (path, previous_checkpoint(path), _next_checkpoint(path)):
        file.unlink(missing_ok=True)


def _next_checkpoint(path: Path) -> Path:
    """Return where a checkpoint is written before it takes the place of the one of a path."""
    return path.with_suffix(f".next{path.suffix}")


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config_id: str,
    extra: nn.Module | None = None,
    newest_epoch: int | None = None,
) -> EpochMetrics:
    """Load a checkpoint into model, optimiser and extra module; return its last epoch's metrics.

    Raises:
        CheckpointError: when the file is missing, truncated, of another training or newer than
            `newest_epoch`; model, optimiser and extra module are then unchanged.
    """
    trained = bytes_of({**model.state_dict(), **_extra_tensors(extra)})
    tensors, metadata = read_tensors(path, most_bytes=PER_WEIGHT * trained + SLACK)
    try:
        metrics = EpochMetrics.from_data(json.loads(metadata["metrics"]))
    except (KeyError, ValueError, RecursionError):
        raise CheckpointError(str(path), "it is not a training checkpoint") from None
    if metadata.get("config_id") != config_id:
        raise CheckpointError(str(path), "it belongs to another training")
    if newest_epoch is not None and metrics.epoch > newest_epoch:
        raise CheckpointError(str(path), f"it has more than {newest_epoch} epochs")
    weights, others = _part(tensors, "model."), _part(tensors, EXTRA)
    if _kinds(weights) != _kinds(model.state_dict()) or _kinds(others) != _kinds(_state(extra)):
        raise CheckpointError(str(path), "it belongs to another model")
    if strange_progress(weights) is not None:
        raise CheckpointError(str(path), "its masks are at no fraction of a training")
    try:
        states = _optimizer_states(tensors, optimizer)
    except (IndexError, ValueError):
        raise CheckpointError(str(path), "it belongs to another optimiser") from None
    model.load_state_dict(weights)
    if extra is not None:
        extra.load_state_dict(others)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    return metrics


def _extra_tensors(extra: nn.Module | None) -> dict[str, Tensor]:
    """Return the extra module's tensors under their names in a checkpoint."""
    return {f"{EXTRA}{key}": value for key, value in _state(extra).items()}


def _state(module: nn.Module | None) -> dict[str, Tensor]:
    return {} if module is None else dict(module.state_dict())


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _optimizer_states(
    tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Return the state of each parameter; ValueError or IndexError when it is another's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            shape = parameters[int(index)].shape
            if tensor.shape not in (torch.Size(), shape) or not tensor.is_floating_point():
                raise ValueError(name)
            states.setdefault(int(index), {})[key] = tensor
    if len({frozenset(state) for state in states.values()}) > 1:
        raise ValueError("states of different optimisers")
    return states
