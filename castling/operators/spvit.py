"""SPViT's bottleneck convolutions, 1x1 and 3x3, with weights mixed from those of attention.

A bottleneck convolution made of attention weights, SPViT's candidates below attention.

Source: He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021, and
its released code. The parameters are the value and output projections of an attention layer,
W_v (A, C) and W_proj (C, A), sliced into heads of d channels, the bias of W_proj, and scores
P (head, offset) for the offsets of a k x k kernel, k = 1 or 3. With p = softmax over heads of
P / alpha, * the zero-padded convolution over the token grid and BN the batch norm of the d
bottleneck channels:

    K_o = sum_h p_ho W_v,h                 the kernel at offset o, (d, C)
    M   = sum_o sum_h p_ho W_proj,h        (C, d)
    y   = M ReLU(BN(K * x)) + bias

x and y are (batch, token, channel). Scores start at 1: all heads have equal shares.

Read off the release: M is a sum, not a mean, over the offsets, W_v and W_proj share p, and a
class token leaves the layer as it came. Choices: P has only the offsets of its kernel, by
rows (the release keeps nine, by columns, of which 1x1 reads the fifth). W_v has no bias, as
the batch norm subtracts what the release's adds. A convolution brings no image to a class
token: unless the option `bypass` is on, a layer with one is refused.

K and M are mixed anew in every pass, once for all images, and are not folded when castled:
their h (k^2 + 1) C d scalings of weights are elementwise, hence no MACs here or in fvcore.
While training, batch norm needs two positions in a batch and lets its images see each other.

Cost per layer, with an H x W grid, embed width C and head size d: (k^2 + 1) H W C d MACs,
whatever the number of heads.
"""

from pydantic import Field

from castling.config import Config
from castling.operators.spec import OPERATORS, Formula, Imported, LayerShape, OperatorSpec


class SpvitOptions(Config):
    """The options of the bottleneck convolutions of SPViT."""

    alpha: float = Field(default=0.01, ge=1e-4)
    """Temperature of the softmax over heads; a small one lets few heads make a kernel offset."""
    bypass: bool = False
    """Whether a class token passes by, as released, though no image token then reaches it."""


def options_of(shape: LayerShape) -> SpvitOptions:
    """Return a layer's options, those left out at their defaults."""
    return SpvitOptions.from_data(shape.block.options)


def serves(shape: LayerShape) -> str:
    """Return the rule against a class token without `bypass`."""
    if shape.grid.num_prefix and not options_of(shape).bypass:
        return "must have the option bypass for a class token, or the model's pooling must be mean"
    return ""


def bottleneck_macs(kernel: int) -> Formula:
    """Return the closed form of a k x k bottleneck convolution."""

    def macs(shape: LayerShape) -> int:
        positions = shape.grid.height * shape.grid.width
        return (kernel**2 + 1) * positions * shape.embed_width * shape.block.head_size

    return macs


def _params(kernel: int) -> Formula:
    def params(shape: LayerShape) -> int:
        block, width = shape.block, shape.embed_width
        projections = 2 * width * block.attention_width + width
        return projections + block.num_heads * kernel**2 + 2 * block.head_size

    return params


def _spec(kernel: int) -> OperatorSpec:
    return OperatorSpec(
        summary=f"SPViT: {kernel}x{kernel} bottleneck convolution, its weights mixed over heads",
        source="He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021",
        family="local" if kernel > 1 else "none",
        code=f"C{kernel}",
        build=Imported(f"castling.operators.modules.spvit:conv{kernel}"),
        uses=frozenset({"num_heads", "head_size"}),
        macs=bottleneck_macs(kernel),
        params=_params(kernel),
        training_macs=bottleneck_macs(kernel),
        options=SpvitOptions,
        check=serves,
        mixes_tokens=kernel > 1,
    )


OPERATORS.add("spvit_conv1", _spec(1))


OPERATORS.add("spvit_conv3", _spec(3))
