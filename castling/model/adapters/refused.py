"""Kinds of timm's attention that cannot be converted, by their class, and why."""

from collections.abc import Mapping


_POOLS = "pools tokens with few queries of its own, which is linear in the tokens already"
_CLASS = "asks with the class token alone, which is linear in the tokens already"
_CHANNELS = "attends over channels, which is linear in the tokens already"
_LINEAR = "is linear in the tokens already"
_NEAR = "sees a small neighbourhood of each token, which is linear in the tokens already"
_TALKS = "mixes its heads around the softmax, for which a core has no place"
_LEARNT = "adds learnt products of queries and positions, which no operator has"

REFUSED_KINDS: Mapping[str, str] = {
    "AttentionPoolLatent": _POOLS,
    "AttentionPool2d": _POOLS,
    "RotAttentionPool2d": _POOLS,
    "ClassAttn": _CLASS,
    "ClassAttention": _CLASS,
    "ClassAttentionBlock": _CLASS,
    "CrossAttention": _CLASS,
    "XCA": _CHANNELS,
    "ChannelAttention": _CHANNELS,
    "ChannelAttentionV2": _CHANNELS,
    "CrossCovarianceAttn": _CHANNELS,
    "SplitAttn": "weighs channels of a convolution and mixes no tokens",
    "SelectiveKernelAttn": "weighs channels of a convolution and mixes no tokens",
    "TalkingHeadAttn": _TALKS,
    "LayerScaleBlockClassAttn": _CLASS,
    "LinearSelfAttention": _LINEAR,
    "EfficientAdditiveAttention": _LINEAR,
    "FactorAttnConvRelPosEnc": _LINEAR,
    "OutlookAttention": _NEAR,
    "HaloAttn": _NEAR,
    "MaskUnitAttention": "orders its tokens by mask units, where a convolution has no rows",
    "SelfAttnBlock": _LEARNT,
    "CascadedGroupAttention": "feeds what a head mixes to the next, for which a core has no place",
    "DiffAttention": "is the difference of two softmaxes, for which a core has no place",
    "BottleneckAttn": _LEARNT,
    "WindowAttentionGlobal": "takes its queries from a pooling of the whole image",
}
