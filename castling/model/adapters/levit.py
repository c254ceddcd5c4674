"""LeViT's attention, TinyViT's and EfficientFormer's: values wider than keys, position biases."""

import math
from typing import Any

from timm.models.efficientformer import Attention as EfficientFormerAttention
from timm.models.levit import Attention, AttentionDownsample
from timm.models.tiny_vit import Attention as TinyVitAttention
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.converted import ConvertedAttention
from castling.model.adapters.spec import ADAPTERS, AttentionAdapter, Call, CoreLayer, input_tensor
from castling.operators.spec import TokenGrid


class ConvertedLevitAttention(ConvertedAttention):
    """LeViT's attention (Graham et al., ICCV 2021) and its kin with another core.

    EfficientFormer's (Li et al., 2022) is the same, TinyViT's (Wu et al., ECCV 2022) is normalised
    first and works in windows. Our choice, as Castling-ViT leaves it open: the position biases
    belong to the softmax, so the masked branch uses them, and they are dropped with it; TinyViT's
    windows stay, and each is converted separately, as the convolutions in between connect them.
    """

    training_only = ("attention_biases", "attention_bias_idxs")
    attention_biases: Tensor
    attention_bias_idxs: Tensor

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.map = layer.queries
        _keep_biases(self, stock)

    def bias(self, q: Tensor) -> Tensor:  # noqa: ARG002 - some kinds need the queries
        """Return the learnt bias of every distance, (head, query, key)."""
        return self.attention_biases[:, self.attention_bias_idxs]

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens; shapes (batch, token, channel), or maps as timm's `use_conv` has them."""
        sizes = [self.key_size, self.key_size, self.value_size]
        if x.ndim == 4:
            self.map.check_sides(*x.shape[2:])
        norm = getattr(self, "norm", None)
        x = x if norm is None else norm(x)
        q, k, v = _per_head(self.qkv(x), self.num_heads).split(sizes, dim=-1)
        mixed = self.mix(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.proj(_merged(mixed, self.map if x.ndim == 4 else None))


class ConvertedLevitDownsample(ConvertedAttention):
    """LeViT's downsampling attention with another core: fewer queries than keys.

    Our choice, as Castling-ViT leaves it open: the value of a query is that of the key at the same
    position.
    """

    training_only = ("attention_biases", "attention_bias_idxs")
    attention_biases: Tensor
    attention_bias_idxs: Tensor
    kv: nn.Module
    q: nn.Module

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.map, self.query_map = layer.keys, layer.queries
        _keep_biases(self, stock)

    def bias(self, q: Tensor) -> Tensor:  # noqa: ARG002 - some kinds need the queries
        """Return the learnt bias of every distance, (head, query, key)."""
        return self.attention_biases[:, self.attention_bias_idxs]

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens; (batch, token, channel) to a quarter of the tokens, or maps likewise."""
        if x.ndim == 4:
            self.map.check_sides(*x.shape[2:])
        else:
            self.map.check(x.shape[1])
        sizes = [self.key_size, self.value_size]
        k, v = _per_head(self.kv(x), self.num_heads).split(sizes, dim=-1)
        q = _per_head(self.q(x), self.num_heads)
        mixed = self.mix(*(part.transpose(1, 2) for part in (q, k, v)))
        return self.proj(_merged(mixed, self.query_map if x.ndim == 4 else None))


def _keep_biases(converted: nn.Module, stock: Any) -> None:
    if hasattr(converted, "auxiliary"):
        converted.attention_biases = stock.attention_biases
        index, is_saved = stock.attention_bias_idxs, "attention_bias_idxs" in stock.state_dict()
        converted.register_buffer("attention_bias_idxs", index, persistent=is_saved)


def _per_head(x: Tensor, num_heads: int) -> Tensor:
    """Return (batch, token, head, size) of tokens (batch, token, channel) or of a map."""
    tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
    return tokens.unflatten(-1, (num_heads, -1))


def _merged(mixed: Tensor, grid: TokenGrid | None) -> Tensor:
    """Return (batch, token, channel), or a map of that grid, of (batch, head, token, size)."""
    tokens = mixed.transpose(1, 2).flatten(2)
    if grid is None:
        return tokens
    return tokens.transpose(1, 2).unflatten(2, (grid.height, grid.width))


def _layer(call: Call) -> CoreLayer:
    module, x = call.module, input_tensor(call)
    side = math.isqrt(x.shape[1])  # EfficientFormer knows its own no longer
    height, width = getattr(module, "resolution", (side, side))
    downsamples = isinstance(module, AttentionDownsample)
    stride = module.stride if downsamples else 1
    unchanged = sum(call.macs.get(name, 0) for name in ("qkv", "kv", "q", "proj"))
    return CoreLayer.of(
        call,
        ConvertedLevitDownsample if downsamples else ConvertedLevitAttention,
        kept_macs=unchanged,
        sizes=(module.key_dim, module.val_dim),
        queries=TokenGrid(height=-(-height // stride), width=-(-width // stride)),
        keys=TokenGrid(height=height, width=width),
        biases=module.attention_biases.numel(),
        query_stride=stride,
        sees_sides=x.ndim == 4 or isinstance(module, TinyVitAttention),
        repeats=x.shape[0],
    )


KINDS = {Attention, AttentionDownsample, EfficientFormerAttention, TinyVitAttention}

ADAPTERS.add(
    "levit",
    AttentionAdapter(
        summary="LeViT, TinyViT, EfficientFormer: wide values, position biases, downsampling",
        knows=lambda module: type(module) in KINDS,
        layer=_layer,
    ),
)
