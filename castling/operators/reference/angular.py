"""Attention by the angular kernel, exact or to first order, in loops over tokens."""

import torch
from torch import Tensor

from castling.operators.reference.linear_angular import angular_similarity, direction


def similarity(q: Tensor, k: Tensor, *, linear: bool) -> Tensor:
    """Return Sim of two rows; where they are parallel no gradient flows. Rows are (size)."""
    cosine = direction(q) @ direction(k)
    if not linear and cosine.abs() >= 1.0:
        cosine = cosine.detach()
    return angular_similarity(cosine, linear=linear)


def angular(q: Tensor, k: Tensor, v: Tensor, *, linear: bool = False) -> Tensor:
    """Return v_i / 2 + sum_j (Sim(q_i, k_j) - 1/2) v_j for one head.

    q, k, v and the result are (token, size).
    """
    rows = []
    for i in range(q.shape[0]):
        y = 0.5 * v[i]
        for j in range(k.shape[0]):
            y = y + (similarity(q[i], k[j], linear=linear) - 0.5) * v[j]
        rows.append(y)
    return torch.stack(rows)
