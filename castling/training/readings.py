"""Losses and gradient norms, which stay on the device until some steps have passed."""

import math

import torch
from torch import Tensor

from castling.errors import DivergedError


READ_EVERY = 50
"""Steps between two reads: each waits for the device."""
WHAT = ("loss", "gradient norm")


class Readings:
    """The losses of an epoch, summed over its images as they are read.

    Args:
        device: of the training.
        epoch: of which they are, from 1.
        first_step: steps of the epoch that are done.
        total: sum of loss x images over them.
        num_images: images of them.
    """

    def __init__(
        self,
        device: torch.device,
        epoch: int,
        first_step: int = 0,
        total: float = 0.0,
        num_images: int = 0,
    ) -> None:
        self._values = torch.zeros(READ_EVERY, len(WHAT), device=device)
        self._sizes: list[int] = []
        self._epoch, self._first_step = epoch, first_step
        self._total, self._num_images = total, num_images

    def add(self, loss: Tensor, norm: Tensor | None, num_images: int) -> None:
        """Note a step; its values are checked at the next read, every 50 steps.

        Raises:
            DivergedError: when a value of an earlier step, or of this one, is not finite; it names
                the step.
        """
        row = self._values[len(self._sizes)]
        row[0].copy_(loss.detach())
        if norm is not None:
            row[1].copy_(norm)
        self._sizes.append(num_images)
        if len(self._sizes) == READ_EVERY:
            self.read()

    def read(self) -> tuple[float, int]:
        """Return the sum of loss x images so far, and the images; wait for the device.

        Raises:
            DivergedError: when a value is not finite, with the step where it happened.
        """
        rows = self._values[: len(self._sizes)].tolist()
        for step, (row, num_images) in enumerate(zip(rows, self._sizes, strict=True)):
            for what, value in zip(WHAT, row, strict=True):
                if not math.isfinite(value):
                    raise DivergedError(what, self._epoch, self._first_step + step + 1, value)
            self._total += row[0] * num_images
            self._num_images += num_images
        self._first_step += len(rows)
        self._sizes.clear()
        self._values.zero_()
        return self._total, self._num_images
