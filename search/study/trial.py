"""The messages between a study and its executor: proposals and outcomes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from castling.config import RunConfig
from castling.training.metrics import EpochMetrics
from reports.curves import recorded
from reports.records import TrialState


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate to train: within the budget and unlike every earlier one."""

    trial: int
    run: RunConfig
    seeds: tuple[int, ...]
    """Of its trainings, one after the other; see `castling.training.seeds`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a training ended."""

    state: TrialState
    """TRAINED, STOPPED or FAILED."""
    reason: str = ""
    """Why it failed."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By name, those of training."""
    epochs: int = 0
    out_of_memory: bool = False
    """Whether it ran out of memory."""
    seed: int | None = None
    """That of the training whose weights are kept; None is the config's."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Build an outcome from the plain values that a worker reports."""
        return cls(**{**data, "state": TrialState(data["state"])})

    @classmethod
    def of(cls, metrics: EpochMetrics, state: TrialState) -> Self:
        """Build the outcome of a training that ended, or was stopped, after an epoch."""
        return cls(state=state, metrics=recorded(metrics), epochs=metrics.epoch)
