"""An epoch in progress: its position, its losses, its random generators."""

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Generator, Tensor

from castling.training.checkpoint import Position
from castling.training.execution import Execution
from castling.training.readings import Readings


class EpochInProgress:
    """An epoch of a training: where it is, and its random generators.

    Args:
        execution: where the training runs.
        number: of the epoch, from 1.
        generator: of the order and of the augmentation, seeded for the epoch.
        begun: where to go on; None at the beginning.
        random: the states of the generators there, as `random` returns them.
    """

    def __init__(
        self,
        execution: Execution,
        number: int,
        generator: Generator,
        begun: Position | None = None,
        random: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._device, self.generator = execution.device, generator
        start = begun or Position(step=0, loss=0.0, num_images=0, seconds=0.0)
        self.step = start.step
        """Steps that are done."""
        self._started = time.perf_counter() - start.seconds
        self.readings = Readings(self._device, number, start.step, start.loss, start.num_images)
        self._seed(execution.rank, random or {})

    def _seed(self, rank: int, random: Mapping[str, Tensor]) -> None:
        """Seed torch's global generators, or set them: drop path and gates draw from them.

        Processes draw apart; only the first, which writes checkpoints, goes on with its draws.
        """
        seed = self.generator.initial_seed()
        if "augment" in random:
            self.generator.set_state(random["augment"])
        if rank:
            numbers = np.random.SeedSequence([seed, rank, self.step]).generate_state(1)
            torch.manual_seed(int(numbers[0]))
            return
        torch.manual_seed(seed)
        if "torch" in random:
            torch.set_rng_state(random["torch"])
        if "cuda" in random and self._device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self._device)

    @property
    def seconds(self) -> float:
        """Time since it began, without interruptions."""
        return time.perf_counter() - self._started

    def position(self) -> Position:
        """Return where it is; waits for the device."""
        loss, num_images = self.readings.read()
        return Position(step=self.step, loss=loss, num_images=num_images, seconds=self.seconds)

    def random(self) -> dict[str, Tensor]:
        """Return the states of the random generators."""
        states = {"augment": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self._device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self._device)
        return states


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's generators, from that of the training and its number."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
