"""FCViT's global context and token mixer by definition, in loops over positions and groups."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from castling.operators.reference.linear_angular import grid_convolution


def gelu(x: Tensor) -> Tensor:
    """Return x times the normal distribution function of x."""
    return 0.5 * x * (1.0 + torch.erf(x / 2.0**0.5))


def similarities(x: Tensor, groups: int) -> Tensor:
    """Return the standardised similarity of every token (token, channel) and group to the mean."""
    size = x.shape[1] // groups
    mean = x.sum(dim=0) / len(x)
    rows = []
    for token in x:
        for m in range(groups):
            members = slice(m * size, (m + 1) * size)
            rows.append((token[members] * mean[members]).sum() / size**0.5)
    s = torch.stack(rows)
    centered = s - s.sum() / len(s)
    variance = (centered * centered).sum() / max(1, len(s) - 1)
    std = variance.sqrt() if variance > 0 else torch.zeros_like(variance)
    return (centered / (std + 1e-5)).reshape(len(x), groups)


def global_context(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the context of one image (token, channel); weights by the names of the module."""
    groups = weights["weight"].shape[0]
    size = x.shape[1] // groups
    s = similarities(x, groups)
    hidden = weights["reduce.weight"] @ (x.sum(dim=0) / len(x)) + weights["reduce.bias"]
    half = hidden.shape[0] // 2
    largest = torch.stack([torch.maximum(hidden[i], hidden[i + half]) for i in range(half)])
    c = weights["expand.weight"] @ largest + weights["expand.bias"]
    rows = []
    for token in range(len(x)):
        row = []
        for channel in range(x.shape[1]):
            m = channel // size
            weight = s[token, m] * weights["weight"][m] + weights["bias"][m]
            row.append(weight * c[channel])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def mixing_step(x: Tensor, height: int, width: int, weights: Mapping[str, Tensor]) -> Tensor:
    """Return one half of the mixer for one image (token, channel), weights by module names."""
    prefix = "context."
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    x = x + global_context(x, own)
    channels = []
    for channel in range(x.shape[1]):
        taps, values = weights["conv.weight"][channel, 0], x[:, channel : channel + 1]
        channels.append(grid_convolution(values, taps, height, width, 0))
    mixed = torch.cat(channels, dim=1) + weights["conv.bias"]
    hidden = gelu(mixed @ weights["squeeze.weight"].T + weights["squeeze.bias"])
    return gelu(hidden @ weights["widen.weight"].T + weights["widen.bias"])


def token_mixer(
    x: Tensor, height: int, width: int, steps: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Return the whole mixer for one image (token, channel), step after step."""
    for weights in steps:
        x = mixing_step(x, height, width, weights)
    return x
