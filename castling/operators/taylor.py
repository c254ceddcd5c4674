"""ViTALiTy's first-order Taylor attention: softmax to first order, with a branch to train."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from castling.operators.auxiliary import AuxiliaryBranch, alive_branch
from castling.operators.spec import (
    OPERATORS,
    CoreShape,
    CoreSpec,
    LayerShape,
    OperatorSpec,
    branch_macs,
    core_shape,
    projection_macs,
    projection_params,
)


class TaylorAttention(nn.Module):
    """First-order Taylor attention (Dass et al., ViTALiTy, HPCA 2023).

    The exponential of softmax attention becomes 1 + x, around keys centred over the tokens so
    that x is small; in training a sparse softmax branch S v learns the rest. Per head:

        kc = k - mean_tokens(k)
        y  = (sqrt(d) sum_tokens(v) + q (kc^T v)) / (N sqrt(d) + q sum_tokens(kc))
        [y + S v while training]

    Centred keys sum to zero, so the denominator is the constant N sqrt(d), which is what is
    computed: y = mean_tokens(v) + q (kc^T v) / (N sqrt(d)). Nothing can vanish in it, and a bias
    of the keys has no effect. q, k, v and y are (batch, head, token, head channel).

    The formula is the paper's; the released code centres over features and has no denominator.
    The paper predicts the mask of its sparse branch with Sanger at a fixed threshold and leaves
    open when the branch goes; here it is the `AuxiliaryBranch`, whose threshold follows the
    block's mask schedule, added without a weight.

    Cost per castled layer, with N tokens, embed width C, attention width A = h d:
    4 N C A + 2 N A d MACs; the branch adds 2 N^2 A in training.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        block = shape.block
        self.num_heads, self.head_size = block.num_heads, block.head_size
        self.qkv = nn.Linear(shape.embed_width, 3 * block.attention_width, bias=shape.qkv_bias)
        self.proj = nn.Linear(block.attention_width, shape.embed_width)
        if block.mask is not None:
            self.auxiliary = AuxiliaryBranch(block.mask, shape.grid.num_tokens)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        branch = alive_branch(self)
        y = taylor(q, k, v, None if branch is None else branch(q, k, v))
        return self.proj(y.transpose(1, 2).flatten(2))


def taylor(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    added: Float[Tensor, "batch head query value"] | None,
) -> Float[Tensor, "batch head query value"]:
    """Return mean(v) + q (kc^T v) / (M sqrt(d)) + added, M keys of size d, per head."""
    centred = k - k.mean(dim=-2, keepdim=True)
    context = centred.transpose(-2, -1) @ v
    denominator = k.shape[-2] * math.sqrt(k.shape[-1])
    y = v.mean(dim=-2, keepdim=True) + (q @ context) / denominator
    return y if added is None else y + added


class TaylorCore(nn.Module):
    """`taylor` between an attention's own projections; (N + M) h d e MACs for N queries."""

    def __init__(self, _: CoreShape) -> None:
        super().__init__()

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        added: Float[Tensor, "batch head query value"] | None,
    ) -> Float[Tensor, "batch head query value"]:
        """Mix values by queries and keys, each per head."""
        return taylor(q, k, v, added)


def _core_macs(shape: CoreShape) -> int:
    num_tokens = shape.queries.num_tokens + shape.keys.num_tokens
    return num_tokens * shape.num_heads * shape.key_size * shape.value_size


def _macs(shape: LayerShape) -> int:
    return projection_macs(shape) + _core_macs(core_shape(shape))


def _training_macs(shape: LayerShape) -> int:
    return _macs(shape) + branch_macs(shape)


OPERATORS.add(
    "taylor",
    OperatorSpec(
        summary="ViTALiTy: softmax to first order around centred keys, masked branch to train",
        source="Dass et al., ViTALiTy, HPCA 2023",
        build=TaylorAttention,
        uses=frozenset({"num_heads", "head_size", "mask"}),
        macs=_macs,
        params=projection_params,
        training_macs=_training_macs,
        core=CoreSpec(build=TaylorCore, macs=_core_macs, params=lambda _: 0),
    ),
)
