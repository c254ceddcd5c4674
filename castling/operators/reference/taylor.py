"""First-order Taylor attention by definition, in quadratic time."""

import math

import torch
from torch import Tensor


def taylor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return sum_j w_ij v_j / sum_j w_ij for one head, w_ij = 1 + q_i . (k_j - mean k) / sqrt(d).

    q, k, v and the result are (token, size).
    """
    mean = k.sum(0) / k.shape[0]
    rows = []
    for i in range(q.shape[0]):
        weights = [1.0 + q[i] @ (k[j] - mean) / math.sqrt(q.shape[1]) for j in range(k.shape[0])]
        numerator = torch.stack([weights[j] * v[j] for j in range(k.shape[0])]).sum(0)
        rows.append(numerator / torch.stack(weights).sum())
    return torch.stack(rows)
