"""Shifted window attention by definition, in loops over windows, with the mask by region."""

import math

import torch
from torch import Tensor


def region(position: int, side: int, window: int, shift: int) -> int:
    """Return which of three bands a row or column of the rolled grid is in.

    Up to the last window; in it, up to the border of the image; in it, beyond that border.
    """
    if shift == 0 or position < side - window:
        return 0
    return 1 if position < side - shift else 2


def swin(
    heads: tuple[Tensor, Tensor, Tensor],
    table: Tensor,
    sides: tuple[int, int],
    window: tuple[int, int],
    shift: tuple[int, int],
) -> Tensor:
    """Return shifted window attention of one head.

    Args:
        heads: q, k and v, each (token, size) like the result.
        table: bias by relative position, (2 window height - 1, 2 window width - 1).
        sides: height and width of the grid.
        window: height and width of the windows.
        shift: rows and columns by which the grid is rolled upwards and to the left.
    """
    q, k, v = heads
    (height, width), (m, n) = sides, window
    rows = list(torch.zeros_like(v))

    def token(r: int, c: int) -> int:
        return (r + shift[0]) % height * width + (c + shift[1]) % width

    def regions(r: int, c: int) -> tuple[int, int]:
        return region(r, height, m, shift[0]), region(c, width, n, shift[1])

    for top in range(0, height, m):
        for left in range(0, width, n):
            places = [(r, c) for r in range(top, top + m) for c in range(left, left + n)]
            for r, c in places:
                seen = [place for place in places if regions(*place) == regions(r, c)]
                scores = [
                    q[token(r, c)] @ k[token(a, b)] / math.sqrt(q.shape[1])
                    + table[r - a + m - 1, c - b + n - 1]
                    for a, b in seen
                ]
                attention = torch.softmax(torch.stack(scores), dim=0)
                values = [v[token(a, b)] for a, b in seen]
                y = torch.zeros_like(v[0])
                for weight, value in zip(attention, values, strict=True):
                    y = y + weight * value
                rows[token(r, c)] = y
    return torch.stack(rows)
