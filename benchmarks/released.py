"""The Castling block as its authors released it: the same operations in the same layout."""

import math

from torch import Tensor, nn


class ReleasedBlock(nn.Module):
    """Linear-angular attention with queries, keys and values heads first throughout.

    What makes it slow is its layout: the convolution runs over (batch, head, token, channel), one
    filter per head, and every norm, product and sum passes over memory. With `branch` the masked
    softmax attention of the training is added, at the constant threshold 0.02.
    """

    def __init__(self, width: int, num_heads: int, *, branch: bool, taps: int = 9) -> None:
        super().__init__()
        self.num_heads, self.branch = num_heads, branch
        self.qkv = nn.Linear(width, 3 * width)
        self.dconv = nn.Conv2d(
            num_heads, num_heads, (taps, 1), padding=(taps // 2, 0), groups=num_heads, bias=False
        )
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        batch, tokens, width = x.shape
        size = width // self.num_heads
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, size)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        added = 0.0
        if self.branch:
            attention = (q * size**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
            mask = attention > 0.02
            added = (mask * attention) @ v
        q = q / q.norm(dim=-1, keepdim=True)
        k = k / k.norm(dim=-1, keepdim=True)
        local = self.dconv(v)
        y = added + 0.5 * v + 1.0 / math.pi * (q @ (k.transpose(-2, -1) @ v))
        y = y / y.norm(dim=-1, keepdim=True) + local
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))
