"""ViTALiTy's first-order Taylor attention: softmax to first order, with a branch to train.

First-order Taylor attention (Dass et al., ViTALiTy, HPCA 2023).

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

from castling.operators.spec import (
    OPERATORS,
    CoreShape,
    CoreSpec,
    Imported,
    LayerShape,
    OperatorSpec,
    branch_macs,
    core_shape,
    projection_macs,
    projection_params,
)


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
        family="linear",
        build=Imported("castling.operators.modules.taylor:TaylorAttention"),
        uses=frozenset({"num_heads", "head_size", "mask"}),
        macs=_macs,
        params=projection_params,
        training_macs=_training_macs,
        core=CoreSpec(
            build=Imported("castling.operators.modules.taylor:TaylorCore"),
            macs=_core_macs,
            params=lambda _: 0,
        ),
    ),
)
