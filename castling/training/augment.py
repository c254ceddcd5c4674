"""Random changes of training images, drawn per image from an explicit generator."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from castling.config import AugmentConfig, TrainConfig
from castling.data.batches import Batch
from castling.data.transforms import draws_apart, seed_all, seed_of


class Augmentation:
    """The random changes of whole batches: those of the preset `small`, then mixup or CutMix.

    Args:
        config: the augmentation, and label smoothing for mixed labels.
        num_classes: of the labels.
    """

    def __init__(self, config: TrainConfig, num_classes: int) -> None:
        self._config, filled = config.augment, config.augment.filled()
        self.repeated = filled.repeated or 1
        """Times that each image of an epoch stands in it."""
        self._num_classes, self._mixup = num_classes, None
        if filled.mixup or filled.cutmix:
            from timm.data import Mixup

            self._mixup = Mixup(  # type: ignore[no-untyped-call, unused-ignore]
                mixup_alpha=filled.mixup,
                cutmix_alpha=filled.cutmix,
                prob=filled.mix_probability,
                switch_prob=filled.mix_switch,
                label_smoothing=config.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, batch: Batch, generator: Generator, step: int) -> Batch:
        """Return a batch changed at random; mixed labels are float32 (batch, class), smoothed.

        Mixing draws from a seed of its own, of the epoch and the step, and leaves the last image
        of an odd batch as it is, with smoothed labels.

        Args:
            batch: of a training.
            generator: of the epoch, on the CPU.
            step: of the epoch, from 0.
        """
        images, labels = batch
        if not self._config.crops_pictures:
            images = augment(images, self._config, generator)
        if self._mixup is None:
            return Batch(images, labels)
        self._mixup.multi_label = labels.ndim == 2
        with draws_apart():
            seed_all(seed_of(generator.initial_seed(), step))
            return self._mixed(images, labels)

    def _mixed(self, images: Tensor, labels: Tensor) -> Batch:
        from timm.data.mixup import mixup_target

        mixup: Any = self._mixup
        even = len(labels) // 2 * 2
        parts = [mixup(images[:even], labels[:even])] if even else []
        if even < len(labels):
            alone = mixup_target(  # type: ignore[no-untyped-call, unused-ignore]
                labels[even:],
                self._num_classes,
                smoothing=mixup.label_smoothing,
                multi_label=mixup.multi_label,
            )
            parts.append((images[even:], alone))
        return Batch(*(torch.cat(part) for part in zip(*parts, strict=True)))


def augment(
    images: Float[Tensor, "batch channel height width"],
    config: AugmentConfig,
    generator: Generator,
) -> Float[Tensor, "batch channel height width"]:
    """Return images moved, turned, scaled, mirrored and partly erased at random.

    Args:
        images: normalised to mean zero; what moves in from outside is the border pixel.
        config: how far each change may go.
        generator: source of randomness, on the CPU.
    """
    if config.shift or config.rotate or config.scale or config.flip:
        images = _move(images, config, generator)
    if config.erase:
        images = _erase(images, config.erase, generator)
    return images


def _uniform(count: int, limit: float, generator: Generator) -> Tensor:
    """Return count numbers uniform in [-limit, limit]."""
    return (torch.rand(count, generator=generator) * 2.0 - 1.0) * limit


def _move(images: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    count = images.shape[0]
    angle = _uniform(count, math.radians(config.rotate), generator)
    zoom = 1.0 / (1.0 + _uniform(count, config.scale, generator))
    shift = torch.stack([_uniform(count, 2.0 * config.shift, generator) for _ in range(2)], dim=1)
    mirror = torch.ones(count)
    if config.flip:
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rotation = torch.stack(
        [torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1
    )
    theta = torch.cat([rotation, shift[..., None]], dim=2).to(images.device, images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _erase(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Set a random square of a quarter to a half of the side to zero, the mean."""
    count, _, height, width = images.shape
    chosen = torch.rand(count, generator=generator) < probability
    side = 0.25 + 0.25 * torch.rand(count, generator=generator)
    top = torch.rand(count, generator=generator) * (1.0 - side)
    left = torch.rand(count, generator=generator) * (1.0 - side)
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    in_rows = (rows >= top[:, None]) & (rows < (top + side)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + side)[:, None])
    erased = in_rows[:, :, None] & in_columns[:, None, :] & chosen[:, None, None]
    return images.masked_fill(erased[:, None].to(images.device), 0.0)
