"""Castling's linear-angular attention: linear in the tokens, with a depthwise convolution on v.

Linear-angular attention (You et al., Castling-ViT, CVPR 2023), as released.

The angular kernel 1 - arccos(q.k / |q||k|) / pi is expanded to first order, 1/2 + x / pi; a
depthwise convolution on v and, in training, a masked softmax branch learn the rest. Per head:

    qn = q / |q|, kn = k / |k|
    y  = v / 2 + qn (kn^T v) / pi  [+ S v while training]
    y  = y / |y| + DWConv(v)

The term v / 2 is an identity, not a sum over tokens, and there is no denominator. The paper
leaves rows of norm zero open (the release returns NaN): here their direction is zero.

Cost per layer without the branch, with N tokens, embed width C, attention width A = h d and k
taps: 4 N C A + 2 N A d + k N A MACs (k^2 H W A for the 2-D convolution).
"""

from castling.config import LayerChoice
from castling.operators.spec import (
    OPERATORS,
    CoreShape,
    CoreSpec,
    Imported,
    LayerShape,
    OperatorSpec,
    TokenGrid,
    branch_macs,
    core_shape,
    projection_macs,
    projection_params,
)


def _conv_taps(choice: LayerChoice) -> int:
    return choice.conv_kernel**2 if choice.conv_form == "grid" else choice.conv_kernel


def conv_macs(choice: LayerChoice, grid: TokenGrid, width: int) -> int:
    """Return the MACs of the convolution on values of `width` channels: taps x tokens x width."""
    convolved = grid.height * grid.width if choice.conv_form == "grid" else grid.num_tokens
    return _conv_taps(choice) * convolved * width


def conv_params(choice: LayerChoice, num_heads: int, head_size: int) -> int:
    """Return the parameters of the convolution: taps x filters."""
    num_filters = num_heads if choice.conv_filters == "head" else num_heads * head_size
    return num_filters * _conv_taps(choice)


def _core_macs(shape: CoreShape) -> int:
    width = shape.num_heads * shape.value_size
    products = (shape.queries.num_tokens + shape.keys.num_tokens) * shape.key_size * width
    return products + conv_macs(shape.choice, shape.queries, width)


def conv_core_params(shape: CoreShape) -> int:
    """Return the parameters of a `ConvolvedCore`: its convolution's."""
    return conv_params(shape.choice, shape.num_heads, shape.value_size)


def _macs(shape: LayerShape) -> int:
    return projection_macs(shape) + _core_macs(core_shape(shape))


def _params(shape: LayerShape) -> int:
    return projection_params(shape) + conv_core_params(core_shape(shape))


def _training_macs(shape: LayerShape) -> int:
    return _macs(shape) + branch_macs(shape)


OPERATORS.add(
    "linear_angular",
    OperatorSpec(
        summary="Castling: linear angular kernel, depthwise convolution, masked branch to train",
        source="You et al., Castling-ViT, CVPR 2023",
        family="linear",
        build=Imported("castling.operators.modules.linear_angular:LinearAngularAttention"),
        uses=frozenset(
            {"num_heads", "head_size", "conv_kernel", "conv_form", "conv_filters", "mask"}
        ),
        macs=_macs,
        params=_params,
        training_macs=_training_macs,
        core=CoreSpec(
            build=Imported("castling.operators.modules.linear_angular:LinearAngularCore"),
            macs=_core_macs,
            params=conv_core_params,
        ),
    ),
)
