"""Vicinity attention by definition, number by number, and its unclamped quadratic form."""

import math

import torch
from torch import Tensor


def clamp(x: Tensor) -> Tensor:
    """Return a number with its magnitude in [1e-4, 1e4] and its sign kept; 0 stays 0.

    A number that is changed, or 0, passes no gradient.
    """
    if 1e-4 <= abs(x) <= 1e4:
        return x
    bound = 0.0 if x == 0.0 else 1e-4 if abs(x) < 1e-4 else 1e4
    return torch.full_like(x, math.copysign(bound, x.item()))


def clamp_all(x: Tensor) -> Tensor:
    """Return `clamp` of every number of x."""
    return torch.stack([clamp(each) for each in x.flatten()]).view_as(x)


def angles(token: int, height: int, width: int) -> tuple[float, float]:
    """Return a token's angles of its row and of its column."""
    row, column = divmod(token, width)
    return math.pi / 2.0 * row / height, math.pi / 2.0 * column / width


def placed(x: Tensor, token: int, height: int, width: int) -> Tensor:
    """Return [x cos a, x sin a, x cos b, x sin b] for a token's row x (size)."""
    a, b = angles(token, height, width)
    return torch.cat([x * math.cos(a), x * math.sin(a), x * math.cos(b), x * math.sin(b)])


def vicinity(q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
    """Return one head's mixed values with every clamp; q, k before ReLU, all (token, size)."""
    queries = [placed(row.relu(), token, height, width) for token, row in enumerate(q)]
    keys = [placed(row.relu(), token, height, width) for token, row in enumerate(k)]
    products = [torch.outer(key, value) for key, value in zip(keys, v, strict=True)]
    context = clamp_all(torch.stack(products).sum(0))
    rows = []
    for query in queries:
        weights = torch.stack([query @ key for key in keys])
        inverse = clamp(1.0 / (weights.sum() + 1e-4))
        rows.append(clamp_all(clamp_all(query @ context) * inverse))
    return torch.stack(rows)


def quadratic(q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
    """Return one head's mixed values without a clamp, from the weights of all pairs of tokens."""
    rows = []
    for i in range(v.shape[0]):
        a, b = angles(i, height, width)
        weights = []
        for j in range(v.shape[0]):
            c, d = angles(j, height, width)
            weights.append(q[i].relu() @ k[j].relu() * (math.cos(a - c) + math.cos(b - d)))
        products = [weight * value for weight, value in zip(weights, v, strict=True)]
        rows.append(torch.stack(products).sum(0) / (torch.stack(weights).sum() + 1e-4))
    return torch.stack(rows)


def gate(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return sigmoid(W2 relu(W1 mean x)) for one image x (token, channel)."""
    mean = x.sum(0) / x.shape[0]
    return torch.sigmoid(second @ torch.relu(first @ mean))
