"""The module of `linear_angular`; castling.operators.linear_angular has the formula."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.kernels import derivatives, fused, linear_angular as native, paths
from castling.operators.modules.auxiliary import AuxiliaryBranch, alive_branch
from castling.operators.spec import (
    CoreShape,
    LayerShape,
    TokenGrid,
)


SMALLEST_SQUARED_NORM = 1e-24
"""Rows of a smaller squared norm have no direction: they become zero and pass no gradient."""


def normalize_rows(x: Float[Tensor, "*row size"]) -> Float[Tensor, "*row size"]:
    """Return x / |x| over the last axis; rows without a direction become zero, never NaN.

    The norm is taken in at least float32, so that bfloat16 rows neither overflow nor vanish.
    """
    if paths.takes_rms_norm(x):
        return _UnitRows.apply(x)
    wide = x if x.dtype == torch.float64 else x.float()
    squared = wide.square().sum(dim=-1, keepdim=True)
    inverse = squared.clamp_min(SMALLEST_SQUARED_NORM).rsqrt()
    return (wide * torch.where(squared > SMALLEST_SQUARED_NORM, inverse, 0.0)).to(x.dtype)


class _UnitRows(torch.autograd.Function):
    """`normalize_rows` by torch's fused `rms_norm` / sqrt(size): two operators, not nine.

    Values are those of `normalize_rows` where norms exceed 1e-9; below, rows shrink towards zero.
    Rows without a direction pass no gradient, as there, for which `F.rms_norm` has no guard.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        size = x.shape[-1]
        eps = SMALLEST_SQUARED_NORM / size
        normed, inverse = torch.ops.aten._fused_rms_norm(x, [size], None, eps)  # noqa: SLF001
        ctx.save_for_backward(x, inverse)
        return normed * size**-0.5

    @staticmethod
    @derivatives.once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse = ctx.saved_tensors
        size = x.shape[-1]
        largest = (2.0 * SMALLEST_SQUARED_NORM / size) ** -0.5
        inverse = inverse.masked_fill(inverse >= largest, 0.0)
        gradient = gradient * size**-0.5
        if x.is_cuda:
            through = torch.ops.aten._fused_rms_norm_backward  # noqa: SLF001
            made, _ = through(gradient, x, [size], inverse, None, [True, False])
            return (made,)
        normed = x * inverse
        along = (gradient * normed).mean(dim=-1, keepdim=True)
        return (((gradient - normed * along) * inverse).to(x.dtype),)


class TokenConvolution(nn.Module):
    """Depthwise convolution with zero padding on the values, over the token axis or the grid.

    tokens: 1-D along the flattened tokens, class token included, k taps (the release, k = 9).
    grid: 2-D k x k over the token grid; the class token bypasses and receives zero.
    Filters are shared by a head's channels (the release) or one per channel. No bias.
    Costs k N A MACs (tokens) or k^2 H W A (grid).
    """

    def __init__(
        self, choice: LayerChoice, grid: TokenGrid, num_heads: int, head_size: int
    ) -> None:
        super().__init__()
        self.grid = grid if choice.conv_form == "grid" else None
        self.kernel, self.width = choice.conv_kernel, num_heads * head_size
        num_filters = num_heads if choice.conv_filters == "head" else self.width
        size = (self.kernel, self.kernel if self.grid else 1)
        self.weight = nn.Parameter(torch.empty(num_filters, 1, *size))
        bound = 1.0 / math.sqrt(size[0] * size[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def reach(self, num_tokens: int) -> native.ConvolutionGrid:
        """Return the grid that the taps run over, for the native kernel."""
        grid = self.grid
        if grid is None:
            return native.ConvolutionGrid(prefix=0, height=num_tokens, width=1)
        grid.check(num_tokens)
        return native.ConvolutionGrid(prefix=grid.num_prefix, height=grid.height, width=grid.width)

    def forward(self, v: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        """Convolve the values, (batch, token, attention width) in and out."""
        grid = self.grid
        if grid is None:
            return self._convolve(v.unsqueeze(2)).squeeze(2)
        grid.check(v.shape[1])
        prefix, image = v.split([grid.num_prefix, grid.height * grid.width], dim=1)
        mixed = self._convolve(image.unflatten(1, (grid.height, grid.width)))
        return torch.cat([torch.zeros_like(prefix), mixed.flatten(1, 2)], dim=1)

    def _convolve(
        self, image: Float[Tensor, "batch height width channel"]
    ) -> Float[Tensor, "batch height width channel"]:
        """Run channels last, tens of times faster for depthwise filters than heads first."""
        weight = self.weight.repeat_interleave(self.width // self.weight.shape[0], dim=0)
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        mixed = F.conv2d(image.permute(0, 3, 1, 2), weight, padding=padding, groups=self.width)
        return mixed.permute(0, 2, 3, 1)


def linear_angular(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    query_v: Float[Tensor, "batch head query value"],
    added: Float[Tensor, "batch head query value"] | None,
) -> Float[Tensor, "batch head query value"]:
    """Return y / |y| of y = query_v / 2 + qn (kn^T v) / pi + added.

    Args:
        q: queries.
        k: keys.
        v: values of the keys.
        query_v: the value of each query, v itself if queries and keys are the same tokens.
        added: what the masked branch adds while training.
    """
    context = normalize_rows(k).transpose(-2, -1) @ v
    y = 0.5 * query_v + (normalize_rows(q) @ context) * (1.0 / math.pi)
    return normalize_rows(y if added is None else y + added)


class LinearAngularAttention(nn.Module):
    """Linear-angular attention (You et al., Castling-ViT, CVPR 2023), as released.

    The formula and its costs stand in `castling.operators.linear_angular`.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.qkv = nn.Linear(shape.embed_width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.conv = TokenConvolution(block, shape.grid, block.num_heads, block.head_size)
        self.proj = nn.Linear(block.attention_width, shape.embed_width)
        if block.mask is not None:
            self.auxiliary = AuxiliaryBranch(block.mask, shape.grid.num_tokens)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        branch, weight = alive_branch(self), self.conv.weight
        if not (branch and branch.needs_map) and native.serves_packed(qkv, weight):
            threshold = branch.limit if branch else None
            reach = self.conv.reach(x.shape[1])
            mixed, survivors = native.mix_packed(qkv, weight, reach, threshold)
            if branch and survivors is not None:
                branch.note(survivors, x.shape[1])
            return self.proj(mixed.flatten(2))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        added = None if branch is None else branch(q, k, v)
        if paths.layer_choice(qkv, weight).path == "triton":
            mixed = fused.mix_added(qkv, weight, added, self.conv.reach(x.shape[1]))
            return self.proj(mixed.flatten(2))
        y = linear_angular(q, k, v, v, added).transpose(1, 2)
        return self.proj(y.flatten(2) + self.conv(v.transpose(1, 2).flatten(2)))


Mix = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""From q, k, v, the value of each query and the result of the branch, to mixed values, per
head."""


class ConvolvedCore(nn.Module):
    """Attention with an identity and a convolution, for attentions whose projections stay.

    As `LinearAngularAttention`, with v at the query's place in the identity and the convolution.
    The paper leaves attention between different grids open (LeViT's downsampling, MViTv2's pooled
    keys): here the value of a query is that of the key at its position on the layer's input grid,
    or of the next one above and to the left of it.

    Cost, with N queries, M keys, heads h, sizes d and e of key and value, and k taps: k N h e
    MACs besides those of `mix`, which are (N + M) h d e for `linear_angular`.
    """

    def __init__(self, mix: Mix, shape: CoreShape) -> None:
        super().__init__()
        self.mix = mix
        self.query_values = QueryValues(shape)
        self.conv = TokenConvolution(
            shape.choice, shape.queries, shape.num_heads, shape.value_size
        )

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        added: Float[Tensor, "batch head query value"] | None,
    ) -> Float[Tensor, "batch head query value"]:
        """Mix values by queries and keys, each per head."""
        query_v = self.query_values(q, v)
        local = self.conv(query_v.transpose(1, 2).flatten(2)).unflatten(2, (-1, query_v.shape[-1]))
        return self.mix(q, k, v, query_v, added) + local.transpose(1, 2)


class LinearAngularCore(ConvolvedCore):
    """The `ConvolvedCore` of `linear_angular`, with the native kernel if it can be used."""

    def __init__(self, shape: CoreShape) -> None:
        super().__init__(linear_angular, shape)

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        added: Float[Tensor, "batch head query value"] | None,
    ) -> Float[Tensor, "batch head query value"]:
        """Mix values by queries and keys, each per head."""
        weight = self.conv.weight
        if not native.serves(q, k, v, added, weight):
            return super().forward(q, k, v, added)
        query_v = self.query_values(q, v)
        return native.mix(q, k, v, query_v, added, weight, self.conv.reach(q.shape[2]))


class QueryValues(nn.Module):
    """The value of the key at each query's position; on a common grid the values themselves."""

    places: Tensor | None

    def __init__(self, shape: CoreShape) -> None:
        super().__init__()
        same = shape.queries == shape.keys and shape.query_stride == shape.key_stride
        self.grid, self.keys = None if same else shape.queries, shape.keys
        self.register_buffer("places", None if same else _places(shape), persistent=False)

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        v: Float[Tensor, "batch head key value"],
    ) -> Float[Tensor, "batch head query value"]:
        """Take the values of some keys, or of some keys often; ConfigError on other grids."""
        if self.places is None or self.grid is None:
            return v
        self.grid.check(q.shape[2])
        self.keys.check(v.shape[2])
        return v.index_select(2, self.places)


def _places(shape: CoreShape) -> Int[Tensor, " query"]:
    """Return the index of the key at each query's position; class tokens stay first."""

    def along(queries: int, keys: int) -> Tensor:
        steps = torch.arange(queries) * shape.query_stride // shape.key_stride
        return steps.clamp_max(keys - 1)

    keys, queries = shape.keys, shape.queries
    rows, columns = along(queries.height, keys.height), along(queries.width, keys.width)
    image = (rows[:, None] * keys.width + columns).flatten() + keys.num_prefix
    return torch.cat([torch.arange(queries.num_prefix), image])
