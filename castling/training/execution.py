"""Where a training runs: its device, and the communication of several processes."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Execution(Protocol):
    """The processes of a training, as one of them sees them."""

    device: torch.device
    """Where model and batches are."""
    is_writer: bool
    """Whether this process writes curve and checkpoints."""
    rank: int
    """Number of this process, from 0."""
    num_processes: int
    """How many train together."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward pass leaves the same gradients in every process."""

    def shard(self, rows: Tensor) -> Tensor:
        """Return this process's part, along the first axis, of what all processes share.

        The parts of all processes, rank by rank, are the whole; one may be empty.
        """

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        """Return the means of values over all processes, each process's with its weight."""


class SingleProcess:
    """One process that does everything.

    Args:
        device: of torch; None takes a GPU where there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.is_writer = True
        self.rank, self.num_processes = 0, 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module as it is."""
        return module

    def shard(self, rows: Tensor) -> Tensor:
        """Return all rows."""
        return rows

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:  # noqa: ARG002
        """Return the values as they are."""
        return dict(values)
