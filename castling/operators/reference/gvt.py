"""GvT's graph, its convolution and attention by definition, in loops over tokens."""

import math

import torch
from torch import Tensor


def joined(i: int, j: int, width: int, num_prefix: int) -> bool:
    """Return whether tokens i and j are one, neighbours on a grid of this width, or a class token.

    Tokens are counted with the `num_prefix` class tokens first, then the grid by rows.
    """
    if min(i, j) < num_prefix:
        return True
    (r, c), (row, column) = divmod(i - num_prefix, width), divmod(j - num_prefix, width)
    return max(abs(r - row), abs(c - column)) <= 1


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return a.b / |a||b|, or zero where one has norm zero."""
    if not a.any() or not b.any():
        return torch.zeros_like(a[0])
    return (a @ b) / ((a @ a).sqrt() * (b @ b).sqrt())


def adjacency(x: Tensor, width: int, num_prefix: int) -> Tensor:
    """Return (A_I + I) * softmax(cosines) of the tokens x (token, channel), (token, token)."""
    rows = []
    for i in range(len(x)):
        likeness = torch.softmax(torch.stack([cosine(x[i], other) for other in x]), dim=0)
        rows.append(
            torch.stack(
                [likeness[j] * joined(i, j, width, num_prefix) for j in range(len(x))],
            )
        )
    return torch.stack(rows)


def graph_convolution(graph: Tensor, x: Tensor) -> Tensor:
    """Return D^-1/2 A D^-1/2 x, D the row sums of A; (token, token) and (token, channel)."""
    degree = [row.sum() for row in graph]
    rows = []
    for i in range(len(x)):
        y = torch.zeros_like(x[i])
        for j in range(len(x)):
            y = y + graph[i, j] / (degree[i].sqrt() * degree[j].sqrt()) * x[j]
        rows.append(y)
    return torch.stack(rows)


def pooled(x: Tensor, size: tuple[int, int], num_prefix: int, pool: int) -> Tensor:
    """Return the class tokens and the means of x (token, channel) over cells of the grid."""
    height, width = size
    rows = [x[i] for i in range(num_prefix)]
    for r in range(0, height, pool):
        for c in range(0, width, pool):
            cell = [(r + i) * width + c + j for i in range(pool) for j in range(pool)]
            rows.append(torch.stack([x[num_prefix + index] for index in cell]).mean(0))
    return torch.stack(rows)


def attention(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(size)) of one head, q (token, size) and k (kept, size)."""
    return torch.stack([torch.softmax(k @ row / math.sqrt(len(row)), dim=0) for row in q])


def talk(attentions: list[Tensor], mixing: Tensor, head: int) -> Tensor:
    """Return what one head attends to: all heads' attention in the proportions of its row."""
    shared = [mixing[head, other] * each for other, each in enumerate(attentions)]
    return torch.stack(shared).sum(0)
