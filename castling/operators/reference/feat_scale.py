"""FeatScale by definition, on softmax attention in loops over tokens."""

import math

import torch
from torch import Tensor


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(size)) v for one head; all are (token, size)."""
    rows = []
    for i in range(q.shape[0]):
        attention = torch.softmax(k @ q[i] / math.sqrt(q.shape[1]), dim=0)
        y = torch.zeros_like(v[i])
        for j in range(k.shape[0]):
            y = y + attention[j] * v[j]
        rows.append(y)
    return torch.stack(rows)


def feat_scale(y: Tensor, mean_gain: Tensor, rest_gain: Tensor) -> Tensor:
    """Return y + s y_dc + t y_hf, y_dc the mean over tokens and y_hf the rest.

    y and the result are (token, channel); the gains s and t are (channel).
    """
    mean = torch.zeros_like(y[0])
    for row in y:
        mean = mean + row / y.shape[0]
    return torch.stack([row + mean_gain * mean + rest_gain * (row - mean) for row in y])
