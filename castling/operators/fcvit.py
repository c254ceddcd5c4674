"""FCViT's token mixer: global context added by similarity, then large depthwise convolutions."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from castling.config import Config
from castling.limits import WIDEST
from castling.operators.spec import OPERATORS, LayerShape, OperatorSpec, needs_no_class_token


SMALLEST_BOTTLENECK = 16
"""Channels below which the bottleneck after a convolution is not reduced."""
EPSILON = 1e-5
"""Added to the standard deviation of the similarities."""


class FCViTOptions(Config):
    """The options of `fcvit`."""

    groups: int = Field(default=8, ge=1, le=WIDEST)
    """Groups of channels, each with its own similarity; must divide the embed width."""
    reduction: int = Field(default=8, ge=1, le=WIDEST)
    """Embed width over the hidden channels, of the global context and of the bottlenecks."""


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
        reduced = _reduced(width, options)
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
        width, options = shape.embed_width, _options(shape)
        hidden, kernel = _bottleneck(width, options), shape.block.conv_kernel
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

    The residuals x + GlobalContext(x) belong to the mixer. It takes the place of attention in the
    block, x + mixer(norm(x)), as in the release; the release also scales the branch per channel
    from a small start (layer scale), which our blocks do not have. It norms an image as a whole,
    our blocks norm token by token. There are no heads: the mixer works at the embed width. The
    kernel is `conv_kernel` (the paper has 11), on the grid whatever `conv_form` says, with one
    filter per channel. One `reduction` serves both places where the release divides by 8. Fewer
    than `reduction` channels keep one hidden channel. The paper leaves open the similarities of a
    single token and group, which have no standard deviation: here they become zero.

    Cost per layer, with N tokens, embed width C, r = C / reduction, b = max(r, 16) and kernel k:
    2 (N C + 3 r C + k^2 N C + 2 N C b) MACs, padding counted as in every convolution.
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


def _options(shape: LayerShape) -> FCViTOptions:
    return FCViTOptions.from_data(shape.block.options)


def _reduced(width: int, options: FCViTOptions) -> int:
    return max(1, width // options.reduction)


def _bottleneck(width: int, options: FCViTOptions) -> int:
    return max(SMALLEST_BOTTLENECK, width // options.reduction)


def _fits(shape: LayerShape) -> str:
    groups = _options(shape).groups
    if shape.embed_width % groups:
        return (
            f"must be one without channel groups, or groups={groups} must divide the embed width "
            f"{shape.embed_width}"
        )
    return needs_no_class_token(shape)


def _macs(shape: LayerShape) -> int:
    width, options, tokens = shape.embed_width, _options(shape), shape.grid.num_tokens
    context = tokens * width + 3 * _reduced(width, options) * width
    conv = shape.block.conv_kernel**2 * tokens * width
    return 2 * (context + conv + 2 * tokens * width * _bottleneck(width, options))


def _params(shape: LayerShape) -> int:
    width, options = shape.embed_width, _options(shape)
    reduced, hidden = _reduced(width, options), _bottleneck(width, options)
    context = 2 * options.groups + 2 * reduced * (width + 1) + width * (reduced + 1)
    conv = width * (shape.block.conv_kernel**2 + 1)
    return 2 * (context + conv + hidden * (width + 1) + width * (hidden + 1))


OPERATORS.add(
    "fcvit",
    OperatorSpec(
        summary="FCViT: global context by similarity, then large depthwise convolutions, twice",
        source="Ma et al., A Close Look at Spatial Modeling: From Attention to Convolution, 2022",
        build=FCViTMixer,
        uses=frozenset({"conv_kernel"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=FCViTOptions,
        check=_fits,
    ),
)
