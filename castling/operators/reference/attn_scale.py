"""AttnScale by definition, with the attention matrix split and rescaled in loops over tokens."""

import math

import torch
from torch import Tensor


def attn_scale(q: Tensor, k: Tensor, v: Tensor, gain: Tensor) -> Tensor:
    """Return A' v for one head, A' = A_lp + (1 + gain) (A - A_lp) and A_lp = 1 / N everywhere.

    q, k, v and the result are (token, size); gain is one number.
    """
    num_tokens, size = q.shape
    rows = []
    for i in range(num_tokens):
        attention = torch.softmax(k @ q[i] / math.sqrt(size), dim=0)
        y = torch.zeros_like(v[i])
        for j in range(num_tokens):
            low = 1.0 / num_tokens
            high = attention[j] - low
            y = y + (low + (1.0 + gain) * high) * v[j]
        rows.append(y)
    return torch.stack(rows)
