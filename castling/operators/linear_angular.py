"""Castling's linear-angular attention: linear in the tokens, with a depthwise convolution on v."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.auxiliary import AuxiliaryBranch
from castling.operators.spec import (
    OPERATORS,
    LayerShape,
    OperatorSpec,
    projection_macs,
    projection_params,
    quadratic_macs,
)


SMALLEST_SQUARED_NORM = 1e-24
"""Rows of a smaller squared norm have no direction: they become zero and pass no gradient."""


def normalize_rows(x: Float[Tensor, "*row size"]) -> Float[Tensor, "*row size"]:
    """Return x / |x| over the last axis; rows without a direction become zero, never NaN.

    The norm is taken in at least float32, so that bfloat16 rows neither overflow nor vanish.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    squared = wide.square().sum(dim=-1, keepdim=True)
    inverse = squared.clamp_min(SMALLEST_SQUARED_NORM).rsqrt()
    return (wide * torch.where(squared > SMALLEST_SQUARED_NORM, inverse, 0.0)).to(x.dtype)


class TokenConvolution(nn.Module):
    """Depthwise convolution with zero padding on the values, over the token axis or the grid.

    tokens: 1-D along the flattened tokens, class token included, k taps (the release, k = 9).
    grid: 2-D k x k over the token grid; the class token bypasses and receives zero.
    Filters are shared by a head's channels (the release) or one per channel. No bias.
    Costs k N A MACs (tokens) or k^2 H W A (grid).
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.grid, self.on_grid = shape.grid, block.conv_form == "grid"
        self.kernel, self.width = block.conv_kernel, block.attention_width
        num_filters = block.num_heads if block.conv_filters == "head" else self.width
        size = (self.kernel, self.kernel if self.on_grid else 1)
        self.weight = nn.Parameter(torch.empty(num_filters, 1, *size))
        bound = 1.0 / math.sqrt(size[0] * size[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, v: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Convolve the values, (batch, token, attention width) in and out."""
        if self.on_grid:
            prefix, image = v.split(
                [self.grid.num_prefix, self.grid.height * self.grid.width], dim=1
            )
            mixed = self._convolve(image.unflatten(1, (self.grid.height, self.grid.width)))
            return torch.cat([torch.zeros_like(prefix), mixed.flatten(1, 2)], dim=1)
        return self._convolve(v.unsqueeze(2)).squeeze(2)

    def _convolve(
        self, image: Float[Tensor, "batch height width channel"]
    ) -> Float[Tensor, "batch height width channel"]:
        """Run channels last, tens of times faster for depthwise filters than heads first."""
        weight = self.weight.repeat_interleave(self.width // self.weight.shape[0], dim=0)
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        mixed = F.conv2d(image.permute(0, 3, 1, 2), weight, padding=padding, groups=self.width)
        return mixed.permute(0, 2, 3, 1)


class LinearAngularAttention(nn.Module):
    """Linear-angular attention (You et al., Castling-ViT, CVPR 2023), as released.

    The angular kernel 1 - arccos(q.k / |q||k|) / pi is kept to first order, 1/2 + x / pi; a
    depthwise convolution on v and, in training, a masked softmax branch learn the rest. Per head:

        qn = q / |q|, kn = k / |k|
        y  = v / 2 + qn (kn^T v) / pi  [+ S v while training]
        y  = y / |y| + DWConv(v)

    The term v / 2 is an identity, not a sum over tokens, and there is no denominator. The paper
    leaves rows of norm zero open (the release returns NaN): here their direction is zero.

    Cost per castled layer, with N tokens, embed width C, attention width A = h d and k taps:
    4 N C A + 2 N A d + k N A MACs (k^2 H W A for the 2-D convolution).
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.qkv = nn.Linear(shape.embed_width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.conv = TokenConvolution(shape)
        self.proj = nn.Linear(block.attention_width, shape.embed_width)
        if block.mask is not None:
            self.auxiliary = AuxiliaryBranch(block.mask, shape.grid.num_tokens)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.unbind(2)
        y = self._mix(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        y = normalize_rows(y).transpose(1, 2).flatten(2)
        return self.proj(y + self.conv(v.flatten(2)))

    def _mix(
        self,
        q: Float[Tensor, "batch head token size"],
        k: Float[Tensor, "batch head token size"],
        v: Float[Tensor, "batch head token size"],
    ) -> Float[Tensor, "batch head token size"]:
        context = normalize_rows(k).transpose(-2, -1) @ v
        y = 0.5 * v + (normalize_rows(q) @ context) * (1.0 / math.pi)
        branch = getattr(self, "auxiliary", None)
        if branch is None or branch.is_empty:
            return y
        return y + branch(q, k, v)


def _conv_taps(shape: LayerShape) -> int:
    kernel = shape.block.conv_kernel
    return kernel**2 if shape.block.conv_form == "grid" else kernel


def _macs(shape: LayerShape) -> int:
    block, grid = shape.block, shape.grid
    on_grid = block.conv_form == "grid"
    convolved = grid.height * grid.width if on_grid else grid.num_tokens
    core = 2 * grid.num_tokens * block.attention_width * block.head_size
    return projection_macs(shape) + core + _conv_taps(shape) * convolved * block.attention_width


def _params(shape: LayerShape) -> int:
    block = shape.block
    num_filters = block.num_heads if block.conv_filters == "head" else block.attention_width
    return projection_params(shape) + num_filters * _conv_taps(shape)


def _training_macs(shape: LayerShape) -> int:
    return _macs(shape) + (quadratic_macs(shape) if shape.block.mask is not None else 0)


OPERATORS.add(
    "linear_angular",
    OperatorSpec(
        summary="Castling: linear angular kernel, depthwise convolution, masked branch to train",
        source="You et al., Castling-ViT, CVPR 2023",
        build=LinearAngularAttention,
        uses=frozenset(
            {"num_heads", "head_size", "conv_kernel", "conv_form", "conv_filters", "mask"}
        ),
        macs=_macs,
        params=_params,
        training_macs=_training_macs,
    ),
)
