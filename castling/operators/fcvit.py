"""FCViT's token mixer: global context added by similarity, then large depthwise convolutions.

FCViT's token mixer (Ma et al., A Close Look at Spatial Modeling, 2022): two `MixingStep`s.

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

from pydantic import Field

from castling.config import Config
from castling.config.limits import WIDEST
from castling.operators.spec import (
    OPERATORS,
    Imported,
    LayerShape,
    OperatorSpec,
    needs_no_class_token,
)


SMALLEST_BOTTLENECK = 16
"""Channels below which the bottleneck after a convolution is not reduced."""


class FCViTOptions(Config):
    """The options of `fcvit`."""

    groups: int = Field(default=8, ge=1, le=WIDEST)
    """Groups of channels, each with its own similarity; must divide the embed width."""
    reduction: int = Field(default=8, ge=1, le=WIDEST)
    """Embed width over the hidden channels, of the global context and of the bottlenecks."""


def options_of(shape: LayerShape) -> FCViTOptions:
    """Return a layer's options, those left out at their defaults."""
    return FCViTOptions.from_data(shape.block.options)


def reduced_width(width: int, options: FCViTOptions) -> int:
    """Return the hidden channels of the global context."""
    return max(1, width // options.reduction)


def bottleneck_width(width: int, options: FCViTOptions) -> int:
    """Return the hidden channels of the bottleneck after a convolution."""
    return max(SMALLEST_BOTTLENECK, width // options.reduction)


def _fits(shape: LayerShape) -> str:
    groups = options_of(shape).groups
    if shape.embed_width % groups:
        return (
            f"must be one without channel groups, or groups={groups} must divide the embed width "
            f"{shape.embed_width}"
        )
    return needs_no_class_token(shape)


def _macs(shape: LayerShape) -> int:
    width, options, tokens = shape.embed_width, options_of(shape), shape.grid.num_tokens
    context = tokens * width + 3 * reduced_width(width, options) * width
    conv = shape.block.conv_kernel**2 * tokens * width
    return 2 * (context + conv + 2 * tokens * width * bottleneck_width(width, options))


def _params(shape: LayerShape) -> int:
    width, options = shape.embed_width, options_of(shape)
    reduced, hidden = reduced_width(width, options), bottleneck_width(width, options)
    context = 2 * options.groups + 2 * reduced * (width + 1) + width * (reduced + 1)
    conv = width * (shape.block.conv_kernel**2 + 1)
    return 2 * (context + conv + hidden * (width + 1) + width * (hidden + 1))


OPERATORS.add(
    "fcvit",
    OperatorSpec(
        summary="FCViT: global context by similarity, then large depthwise convolutions, twice",
        source="Ma et al., A Close Look at Spatial Modeling: From Attention to Convolution, 2022",
        family="local",
        build=Imported("castling.operators.modules.fcvit:FCViTMixer"),
        uses=frozenset({"conv_kernel"}),
        macs=_macs,
        params=_params,
        training_macs=_macs,
        options=FCViTOptions,
        check=_fits,
    ),
)
