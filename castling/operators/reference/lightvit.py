"""LightViT's window, gathering and broadcasting attention by definition, token by token."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the softmax average of v (token, size) for one query q (size)."""
    scores = torch.stack([q @ key / math.sqrt(q.shape[0]) for key in k])
    attention = torch.softmax(scores if bias is None else scores + bias, dim=0)
    rows = [attention[j] * v[j] for j in range(v.shape[0])]
    return torch.stack(rows).sum(dim=0)


def window_members(token: int, width: int, side: int) -> list[tuple[int, int, int]]:
    """Return the tokens of a token's window, and how far down and right of each it lies."""
    row, column = divmod(token, width)
    top, left = row - row % side, column - column % side
    return [
        (r * width + c, row - r, column - c)
        for r in range(top, top + side)
        for c in range(left, left + side)
    ]


def local(q: Tensor, k: Tensor, v: Tensor, width: int, bias: Tensor) -> Tensor:
    """Return window attention of one head over a grid of the given width.

    q, k, v and the result are (token, size); bias is (2 M - 1, 2 M - 1), its centre is for a
    token and itself.
    """
    side = (bias.shape[0] + 1) // 2
    rows = []
    for i in range(q.shape[0]):
        members = window_members(i, width, side)
        tokens = [token for token, _, _ in members]
        added = torch.stack(
            [bias[down + side - 1, right + side - 1] for _, down, right in members]
        )
        rows.append(attend(q[i], k[tokens], v[tokens], added))
    return torch.stack(rows)


def lightvit(
    x: Tensor,
    num_global: int,
    width: int,
    project: Callable[[Tensor], Sequence[Sequence[Tensor]]],
    project_gathered: Callable[[Tensor], Sequence[Sequence[Tensor]]],
    biases: Sequence[Tensor],
) -> Tensor:
    """Return the mixed tokens (token, attention width) of one image, before the projection.

    Args:
        x: global tokens, then the image tokens of a grid by rows, (token, channel).
        num_global: how many are global.
        width: columns of the grid.
        project: from tokens to q, k, v of every head.
        project_gathered: from gathered global tokens to their keys and values of every head.
        biases: position bias of every head.
    """
    heads = project(x)
    gathered = torch.cat(
        [
            torch.stack([attend(q[i], k[num_global:], v[num_global:]) for i in range(num_global)])
            for q, k, v in heads
        ],
        dim=1,
    )
    images = []
    for (q, k, v), (key, value), bias in zip(
        heads, project_gathered(gathered), biases, strict=True
    ):
        image_q, image_k, image_v = q[num_global:], k[num_global:], v[num_global:]
        broadcast = torch.stack([attend(row, key, value) for row in image_q])
        images.append(local(image_q, image_k, image_v, width, bias) + broadcast)
    return torch.cat([gathered, torch.cat(images, dim=1)])
