"""SPViT's convolution from attention weights by definition, in loops over heads and positions."""

import torch
from torch import Tensor


def mix(slices: list[Tensor], scores: Tensor, alpha: float) -> Tensor:
    """Return the heads' slices summed with weights softmax(scores / alpha); scores is (head)."""
    powers = [torch.exp((score - scores.max()) / alpha) for score in scores]
    total = sum(powers, torch.zeros_like(scores[0]))
    return sum(
        (power / total * part for power, part in zip(powers, slices, strict=True)),
        torch.zeros_like(slices[0]),
    )


def convolve(image: Tensor, kernels: list[Tensor], side: int) -> Tensor:
    """Return the zero-padded convolution of an image (height, width, channel).

    Args:
        image: tokens on their grid.
        kernels: a matrix (size, channel) per offset of the side x side kernel, by rows.
        side: 1 or 3.
    """
    height, width = image.shape[:2]
    rows = []
    for r in range(height):
        for c in range(width):
            y = torch.zeros_like(kernels[0][:, 0])
            for o, kernel in enumerate(kernels):
                row, column = r + o // side - side // 2, c + o % side - side // 2
                if 0 <= row < height and 0 <= column < width:
                    y = y + kernel @ image[row, column]
            rows.append(y)
    return torch.stack(rows)


def batch_norm(
    x: Tensor, statistics: tuple[Tensor, Tensor] | None, scale: Tensor, shift: Tensor
) -> Tensor:
    """Return (x - mean) / sqrt(variance + 1e-5) * scale + shift for x (batch, token, size).

    Without given statistics they are those of the batch, the variance divided by the count.
    """
    values = x.flatten(0, 1)
    if statistics is None:
        mean = values.sum(0) / len(values)
        statistics = mean, ((values - mean) ** 2).sum(0) / len(values)
    mean, variance = statistics
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift
