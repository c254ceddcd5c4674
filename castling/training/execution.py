"""Where a training runs: its device, and the communication of several processes."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn


class Execution(Protocol):
    """The processes of a training, as one of them sees them."""

    device: torch.device
    """Where model and batches are."""
    is_writer: bool
    """Whether this process writes curve and checkpoints."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward pass leaves the same gradients in every process."""

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

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module as it is."""
        return module

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:  # noqa: ARG002
        """Return the values as they are."""
        return dict(values)
