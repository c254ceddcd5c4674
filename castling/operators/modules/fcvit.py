"""The module of the operator `fcvit`; castling.operators.fcvit has the formula."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.fcvit import (
    FCViTOptions,
    bottleneck_width,
    options_of,
    reduced_width,
)
from castling.operators.spec import LayerShape


EPSILON = 1e-5
"""Added to the standard deviation of the similarities."""


def standardize(
    x: Float[Tensor, "batch token group"],
) -> Float[Tensor, "batch token group"]:
    """Return (x - mean) / (std + eps) over tokens and groups of each image, std unbiased.

    Taken in at least float32; a single number, whose unbiased std is undefined, becomes zero.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    correction = int(x.shape[1] * x.shape[2] > 1)
    std = wide.std(dim=(1, 2), correction=correction, keepdim=True)
    return ((wide - wide.mean(dim=(1, 2), keepdim=True)) / (std + EPSILON)).to(x.dtype)


class GlobalContext(nn.Module):
    """The mean token, transformed, to each token in the measure that it resembles the mean.

    With g the mean over tokens, r = C / reduction, and x_m, g_m the channels of group m:

        s_m = x_m . g_m / sqrt(C / groups), standardised over tokens and groups, times weight_m,
              plus bias_m
        c   = W_2 max(first half of W_1 g, second half), W_1: C -> 2 r, W_2: r -> C
        context_m = s_m c_m

    Costs N C + 3 r C MACs.
    """

    def __init__(self, width: int, options: FCViTOptions) -> None:
        super().__init__()
        reduced = reduced_width(width, options)
        self.groups = options.groups
        self.scale = (width // options.groups) ** -0.5
        self.weight = nn.Parameter(torch.ones(options.groups))
        self.bias = nn.Parameter(torch.zeros(options.groups))
        self.reduce = nn.Linear(width, 2 * reduced)
        self.expand = nn.Linear(reduced, width)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Return the context of each token, (batch, token, channel) as the input."""
        mean = x.mean(dim=1)
        tokens, center = self._grouped(x), self._grouped(mean)
        similarity = torch.einsum("bngc,bgc->bng", tokens, center) * self.scale
        weights = standardize(similarity) * self.weight + self.bias
        hidden = self.reduce(mean).unflatten(-1, (2, -1)).amax(dim=1)
        context = self._grouped(self.expand(hidden))
        return (weights.unsqueeze(-1) * context.unsqueeze(1)).flatten(2)

    def _grouped(self, x: Float[Tensor, "*rows channel"]) -> Float[Tensor, "*rows group member"]:
        return x.unflatten(-1, (self.groups, -1))


class MixingStep(nn.Module):
    """x + GlobalContext(x), a depthwise k x k convolution, a bottleneck and a GELU.

    The bottleneck is C -> b -> C with a GELU inside, b = max(C / reduction, 16).

    Costs N C + 3 r C + k^2 N C + 2 N C b MACs.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        width, options = shape.embed_width, options_of(shape)
        hidden, kernel = bottleneck_width(width, options), shape.block.conv_kernel
        self.sides = (shape.grid.height, shape.grid.width)
        self.context = GlobalContext(width, options)
        self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.squeeze = nn.Linear(width, hidden)
        self.widen = nn.Linear(hidden, width)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens once; shapes (batch, token, channel) in and out."""
        image = (x + self.context(x)).unflatten(1, self.sides)
        mixed = self.conv(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        return F.gelu(self.widen(F.gelu(self.squeeze(mixed))))


class FCViTMixer(nn.Module):
    """FCViT's token mixer (Ma et al., A Close Look at Spatial Modeling, 2022): two `MixingStep`s.

    The formula and its costs stand in `castling.operators.fcvit`.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.grid = shape.grid
        self.steps = nn.Sequential(MixingStep(shape), MixingStep(shape))

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        self.grid.check(x.shape[1])
        return self.steps(x)
