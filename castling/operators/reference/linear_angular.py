"""Linear-angular attention and its parts by definition, in loops over tokens."""

import math

import torch
from torch import Tensor


def angular_similarity(x: Tensor, *, linear: bool) -> Tensor:
    """Return the angular kernel of a cosine x: 1 - arccos(x) / pi, or 1/2 + x / pi when linear."""
    if linear:
        return 0.5 + x / math.pi
    return 1.0 - torch.arccos(x.clamp(-1.0, 1.0)) / math.pi


def direction(row: Tensor) -> Tensor:
    """Return row / |row|, or zeros for a row of norm zero; shape (size)."""
    squared = (row * row).sum()
    if squared <= 1e-24:
        return torch.zeros_like(row)
    return row / squared.sqrt()


def linear_angular(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return v_i / 2 + sum_j cos(q_i, k_j) v_j / pi for one head, in quadratic time.

    q, k, v and the result are (token, size).
    """
    rows = []
    for i in range(q.shape[0]):
        y = 0.5 * v[i]
        for j in range(k.shape[0]):
            y = y + (direction(q[i]) @ direction(k[j])) / math.pi * v[j]
        rows.append(y)
    return torch.stack(rows)


def masked_softmax(q: Tensor, k: Tensor, v: Tensor, threshold: float) -> Tensor:
    """Return S v for one head, S the softmax attention with entries up to threshold set to zero.

    q, k, v and the result are (token, size).
    """
    rows = []
    for i in range(q.shape[0]):
        attention = torch.softmax(k @ q[i] / math.sqrt(q.shape[1]), dim=0)
        kept = [attention[j] * v[j] for j in range(k.shape[0]) if attention[j] > threshold]
        rows.append(torch.stack(kept).sum(0) if kept else torch.zeros_like(v[i]))
    return torch.stack(rows)


def token_convolution(v: Tensor, taps: Tensor) -> Tensor:
    """Return the zero-padded correlation of v (token, size) with taps (kernel) over tokens."""
    half = taps.shape[0] // 2
    rows = []
    for i in range(v.shape[0]):
        y = torch.zeros_like(v[i])
        for t in range(taps.shape[0]):
            if 0 <= i + t - half < v.shape[0]:
                y = y + taps[t] * v[i + t - half]
        rows.append(y)
    return torch.stack(rows)


def grid_convolution(v: Tensor, taps: Tensor, height: int, width: int, num_prefix: int) -> Tensor:
    """Return the zero-padded 2-D cross-correlation over the grid; prefix tokens receive zero.

    v and the result are (num_prefix + height * width, size), taps (kernel, kernel).
    """
    half = taps.shape[0] // 2
    rows = [torch.zeros_like(v[0]) for _ in range(num_prefix)]
    for r in range(height):
        for c in range(width):
            y = torch.zeros_like(v[0])
            for i in range(taps.shape[0]):
                for j in range(taps.shape[1]):
                    row, column = r + i - half, c + j - half
                    if 0 <= row < height and 0 <= column < width:
                        y = y + taps[i, j] * v[num_prefix + row * width + column]
            rows.append(y)
    return torch.stack(rows)
