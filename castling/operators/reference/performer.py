"""FAVOR+ attention by definition, in quadratic time, one image at a time."""

import math

import torch
from torch import Tensor


def features(x: Tensor, projection: Tensor, largest: Tensor) -> Tensor:
    """Return the m features of a row x (size), given the projection (m, size) and maximum."""
    size, number = x.shape[0], projection.shape[0]
    exponents = [
        row @ x * size**-0.25 - x @ x * size**-0.5 / 2.0 - largest.detach() for row in projection
    ]
    return torch.stack([torch.exp(each) + 1e-4 for each in exponents]) / math.sqrt(number)


def performer(q: Tensor, k: Tensor, v: Tensor, projection: Tensor) -> Tensor:
    """Return sum_j w_ij v_j / sum_j w_ij with w_ij = phi(q_i) . phi(k_j), for every head.

    q, k, v and the result are (head, token, size) of one image, projection is (m, size).
    """
    scale = q.shape[-1] ** -0.25
    key_maximum = torch.stack([row @ x * scale for head in k for x in head for row in projection])
    heads = []
    for queries, keys, values in zip(q, k, v, strict=True):
        mapped_keys = [features(x, projection, key_maximum.max()) for x in keys]
        rows = []
        for x in queries:
            query_maximum = torch.stack([row @ x * scale for row in projection]).max()
            mapped = features(x, projection, query_maximum)
            weights = torch.stack([mapped @ key for key in mapped_keys])
            products = [w * value for w, value in zip(weights, values, strict=True)]
            rows.append(torch.stack(products).sum(0) / weights.sum())
        heads.append(torch.stack(rows))
    return torch.stack(heads)
