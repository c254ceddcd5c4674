"""The state of a training, within an epoch too: one safetensors file, to go on bit for bit."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from castling.config.base import Config
from castling.errors import CheckpointError, ConfigError
from castling.model.keep import strange_progress
from castling.training.metrics import EpochMetrics
from castling.untrusted.tensor_file import bytes_of, read_tensors, write_tensors


PER_WEIGHT, SLACK = 10, 2**20
"""Largest size of a checkpoint: numbers per weight, and bytes of everything else."""
EXTRA = "beside."
"""Prefix of the extra module's tensors; the name dates from version 0.1, whose files are read."""
PLAIN = (bool, int, float)
"""Numbers of an optimiser's state that are no tensors."""


class Position(Config):
    """Where a training is within an epoch."""

    step: int = Field(ge=0)
    """Steps of the epoch that are done."""
    loss: float
    """Sum of loss x images over them."""
    num_images: int = Field(ge=0)
    """Images of them, of this process."""
    seconds: float = Field(ge=0.0)
    """Time that they took."""


@dataclass(kw_only=True)
class Best:
    """The epoch with the best value of the task's primary metric so far."""

    metrics: EpochMetrics
    weights: dict[str, Tensor]
    """The model's state."""


@dataclass(kw_only=True)
class State:
    """All that a training goes on from; a checkpoint is loaded into one in place."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    extra: nn.Module | None = None
    """Trained together with the model, but not exported."""
    ema: nn.Module | None = None
    """The model of averaged weights."""
    scaler: torch.amp.GradScaler | None = None
    metrics: EpochMetrics | None = None
    """Of the last epoch that is finished."""
    position: Position | None = None
    """In the epoch after it; None at its beginning."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """States of the random generators, by name, where there is a position."""
    best: Best | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state as copied tensors and notes, which a thread may write while the training goes on."""

    tensors: dict[str, Tensor]
    notes: dict[str, str]

    @classmethod
    def of(cls, state: State, config_id: str) -> "Snapshot":
        """Copy a state; `config_id` identifies the training."""
        tensors = _named("model.", state.model.state_dict()) | _named(EXTRA, _state(state.extra))
        tensors |= _named("ema.", _state(state.ema)) | _named("random.", state.random)
        if state.best is not None:
            tensors |= _named("best.", state.best.weights)
        groups, plain = _plain_numbers(state.optimizer, tensors)
        notes = {
            "config_id": config_id,
            "metrics": "null" if state.metrics is None else state.metrics.to_line(),
            "optimizer": json.dumps({"groups": groups, "states": plain}),
        }
        if state.position is not None:
            notes["position"] = json.dumps(state.position.to_data())
        if state.best is not None:
            notes["best"] = state.best.metrics.to_line()
        if state.scaler is not None:
            notes["scaler"] = json.dumps(state.scaler.state_dict())
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        return cls(tensors=copies, notes=notes)

    def write(self, path: Path) -> None:
        """Write the file atomically.

        The previous checkpoint stays in the folder, in case the disk damages this one.
        """
        written = _next_checkpoint(path)
        write_tensors(written, self.tensors, {"format": "castling-checkpoint", **self.notes})
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
    path: Path, state: State, config_id: str, newest_epoch: int | None = None
) -> None:
    """Load a checkpoint into a state, also one of earlier versions.

    Raises:
        CheckpointError: when the file is missing, truncated, of another training or newer than
            `newest_epoch`; the state is then unchanged.
    """
    trained = bytes_of({**state.model.state_dict(), **_named(EXTRA, _state(state.extra))})
    tensors, notes = read_tensors(path, most_bytes=PER_WEIGHT * trained + SLACK)
    metrics, best, position, numbers, scaler = _read_notes(path, notes)
    if notes.get("config_id") != config_id:
        raise CheckpointError(str(path), "it belongs to another training")
    if newest_epoch is not None and metrics is not None and metrics.epoch > newest_epoch:
        raise CheckpointError(str(path), f"it has more than {newest_epoch} epochs")
    modules = {"model.": state.model, EXTRA: state.extra, "ema.": state.ema}
    weights = {prefix: _part(tensors, prefix) for prefix in modules}
    kept, random = _part(tensors, "best."), _part(tensors, "random.")
    expected = {prefix: _state(module) for prefix, module in modules.items()}
    expected["best."] = {} if best is None else _state(state.model)
    _check_weights(path, expected, {**weights, "best.": kept})
    if position is not None and not _are_random_states(random):
        raise CheckpointError(str(path), "it lacks the states of the random generators")
    try:
        loaded = _optimizer_state(tensors, state.optimizer, numbers)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise CheckpointError(str(path), "it belongs to another optimiser") from None
    for prefix, module in modules.items():
        if module is not None:
            module.load_state_dict(weights[prefix])
    if state.scaler is not None and scaler is not None:
        state.scaler.load_state_dict(scaler)
    state.optimizer.load_state_dict(loaded)
    state.metrics, state.position, state.random = metrics, position, random
    state.best = None if best is None else Best(metrics=best, weights=kept)


def _check_weights(
    path: Path,
    expected: Mapping[str, Mapping[str, Tensor]],
    weights: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Raise CheckpointError when a module's tensors are another's, by prefix."""
    if any(_kinds(expected[prefix]) != _kinds(weights[prefix]) for prefix in expected):
        raise CheckpointError(str(path), "it belongs to another model")
    if any(strange_progress(part) is not None for part in weights.values()):
        raise CheckpointError(str(path), "its masks are at no fraction of a training")


Notes = tuple[
    EpochMetrics | None,
    EpochMetrics | None,
    Position | None,
    dict[str, Any],
    dict[str, Any] | None,
]


def _read_notes(path: Path, notes: Mapping[str, str]) -> Notes:
    """Return metrics, those of the best epoch, position, optimiser's numbers and scaler."""

    def read(name: str) -> Any:
        return json.loads(notes[name]) if name in notes else None

    try:
        metrics, position, best = json.loads(notes["metrics"]), read("position"), read("best")
        numbers, scaler = read("optimizer") or {}, read("scaler")
        if metrics is None and position is None:
            raise ConfigError("metrics", "is required")
        return (
            None if metrics is None else EpochMetrics.from_data(metrics),
            None if best is None else EpochMetrics.from_data(best),
            None if position is None else Position.from_data(position),
            dict(numbers),
            None if scaler is None else dict(scaler),
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(str(path), "it is not a training checkpoint") from None


def _are_random_states(random: Mapping[str, Tensor]) -> bool:
    """Return whether generators on the CPU, at least, can be set to these states."""
    size = torch.get_rng_state().shape
    return all(
        name in random and random[name].dtype == torch.uint8 and random[name].shape == size
        for name in ("augment", "torch")
    )


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in tensors.items()}


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


def _plain_numbers(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Add an optimiser's tensors to others; return its numbers, of groups and of parameters.

    Some of timm's optimisers count steps in their groups, as a number or as a tensor.
    """
    stored = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, state in stored["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            elif isinstance(value, PLAIN):
                plain.setdefault(str(index), {})[key] = value
    groups = [
        {"step": float(group["step"]), "is_tensor": isinstance(group["step"], Tensor)}
        if "step" in group
        else {}
        for group in stored["param_groups"]
    ]
    return groups, plain


def _optimizer_state(
    tensors: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    numbers: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a state for `load_state_dict`; an error of Python's own when it is another's."""
    states = _parameter_states(tensors, optimizer, numbers)
    groups = optimizer.state_dict()["param_groups"]
    for group, stored in zip(groups, numbers.get("groups", [{}] * len(groups)), strict=True):
        if "step" in stored:
            step = float(stored["step"])
            group["step"] = torch.tensor(step) if stored["is_tensor"] else int(step)
    return {"state": states, "param_groups": groups}


def _parameter_states(
    tensors: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    numbers: Mapping[str, Any],
) -> dict[int, dict[str, Any]]:
    """Return the state of each parameter, by its number."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            shape = parameters[int(index)].shape
            if tensor.shape not in (torch.Size(), shape) or not tensor.is_floating_point():
                raise ValueError(name)
            states.setdefault(int(index), {})[key] = tensor
    for index, plain in numbers.get("states", {}).items():
        if not all(isinstance(value, PLAIN) for value in plain.values()):
            raise TypeError(index)
        states[int(index)] |= plain
    kinds = {(frozenset(state), state.get("use_muon")) for state in states.values()}
    if len({which for _, which in kinds}) < len(kinds):
        raise ValueError("states of different optimisers")
    return states
