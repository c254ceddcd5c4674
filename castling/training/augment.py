"""Random changes of training images, drawn per image from an explicit generator."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from castling.config import AugmentConfig


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
