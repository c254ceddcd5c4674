"""Performer's FAVOR+ attention: softmax attention estimated by positive random features."""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from castling.config import Config, LayerChoice
from castling.operators.spec import (
    OPERATORS,
    CoreShape,
    CoreSpec,
    LayerShape,
    OperatorSpec,
    core_shape,
    projection_macs,
    projection_params,
)


FEATURE_FLOOR = 1e-4
"""Added to every random feature: no row of features, hence no denominator, can vanish."""


class PerformerOptions(Config):
    """What only the Performer has."""

    num_features: int = Field(default=0, ge=0, le=4_096)
    """Random features m per head; 0 takes int(d ln d) for head size d, at least 1."""


def orthogonal_rows(num_rows: int, size: int) -> Float[Tensor, "num_rows size"]:
    """Draw random rows, orthogonal within every `size` of them, as long as Gaussian rows are.

    Drawn from torch's global generator: the directions of a block are uniformly distributed (QR
    of a Gaussian matrix, signs of R's diagonal moved to Q), the lengths those of independent
    standard normal rows of the same size.
    """
    blocks = []
    for _ in range(0, num_rows, size):
        q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
        blocks.append(q * r.diagonal().sign())
    lengths = torch.randn(num_rows, size, dtype=torch.float64).norm(dim=1, keepdim=True)
    return (torch.cat(blocks)[:num_rows] * lengths).to(torch.get_default_dtype())


class PerformerAttention(nn.Module):
    """FAVOR+ attention (Choromanski et al., Rethinking Attention with Performers, ICLR 2021).

    The exponential kernel exp(q . k / sqrt(d)) is estimated by m positive random features. Per
    head, with W the (m, d) projection:

        phi(x) = exp(W x / d^(1/4) - |x|^2 / (2 sqrt(d)) - max) + 1e-4
        y      = phi(q) (phi(k)^T v) / (phi(q) . sum_tokens(phi(k)))

    max is over the features of a query's row and, for the keys, over everything of the image:
    heads, tokens and features. The factor m^(-1/2) of phi cancels and is left out. q, k, v and y
    are (batch, head, token, head channel).

    Choices. The paper redraws W now and then; here it is drawn once, when the layer is built, is
    shared by the layer's heads, is not trained and is saved in the state dict. The release takes
    the keys' maximum over the whole batch, where through the 1e-4 images change one another's
    output; here an image is alone. No gradient flows through a maximum, which would cancel but
    for the 1e-4. Features are computed in at least float32: bfloat16 would round the exponent.

    Cost per layer, with N tokens, embed width C, attention width A = h d:
    4 N C A + 4 N A m + h N m MACs; W's m d numbers are no parameters.
    """

    projection: Tensor

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.qkv = nn.Linear(shape.embed_width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.proj = nn.Linear(block.attention_width, shape.embed_width)
        rows = orthogonal_rows(_num_features(block, block.head_size), block.head_size)
        self.register_buffer("projection", rows)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(performer(q, k, v, self.projection).transpose(1, 2).flatten(2))


def performer(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    projection: Float[Tensor, "feature size"],
) -> Float[Tensor, "batch head query value"]:
    """Return phi(q) (phi(k)^T v) / (phi(q) . sum_keys(phi(k))), at least in float32 within."""
    wide = torch.promote_types(q.dtype, torch.float32)
    queries = _features(q.to(wide), projection, (-1,))
    keys = _features(k.to(wide), projection, (-3, -2, -1))
    denominator = queries @ keys.sum(dim=-2).unsqueeze(-1)
    return ((queries @ (keys.transpose(-2, -1) @ v.to(wide))) / denominator).to(v.dtype)


def _features(
    x: Float[Tensor, "batch head token size"],
    projection: Float[Tensor, "feature size"],
    max_over: tuple[int, ...],
) -> Float[Tensor, "batch head token feature"]:
    scaled = x * x.shape[-1] ** -0.25
    projected = scaled @ projection.to(x.dtype).transpose(0, 1)
    largest = projected.detach().amax(dim=max_over, keepdim=True)
    half_norm = 0.5 * scaled.square().sum(dim=-1, keepdim=True)
    return torch.exp(projected - half_norm - largest) + FEATURE_FLOOR


class PerformerCore(nn.Module):
    """`performer` between an attention's own projections; queries may be fewer.

    Cost, with N queries, M keys, heads h, sizes d and e of key and value, and m features:
    h m ((N + M) (d + e) + N) MACs.
    """

    projection: Tensor

    def __init__(self, shape: CoreShape) -> None:
        super().__init__()
        rows = orthogonal_rows(_num_features(shape.choice, shape.key_size), shape.key_size)
        self.register_buffer("projection", rows)

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        added: Float[Tensor, "batch head query value"] | None,
    ) -> Float[Tensor, "batch head query value"]:
        """Mix values by queries and keys, each per head."""
        mixed = performer(q, k, v, self.projection)
        return mixed if added is None else mixed + added


def _num_features(choice: LayerChoice, size: int) -> int:
    chosen = PerformerOptions.from_data(choice.options).num_features
    return chosen or max(1, int(size * math.log(size)))


def _core_macs(shape: CoreShape) -> int:
    queries, keys = shape.queries.num_tokens, shape.keys.num_tokens
    products = (queries + keys) * (shape.key_size + shape.value_size)
    features = _num_features(shape.choice, shape.key_size)
    return shape.num_heads * features * (products + queries)


def _macs(shape: LayerShape) -> int:
    return projection_macs(shape) + _core_macs(core_shape(shape))


OPERATORS.add(
    "performer",
    OperatorSpec(
        summary="Performer (FAVOR+): softmax estimated by positive orthogonal random features",
        source="Choromanski et al., Rethinking Attention with Performers, ICLR 2021",
        build=PerformerAttention,
        uses=frozenset({"num_heads", "head_size"}),
        macs=_macs,
        params=projection_params,
        training_macs=_macs,
        options=PerformerOptions,
        core=CoreSpec(build=PerformerCore, macs=_core_macs, params=lambda _: 0),
    ),
)
