"""MViTv2's attention: q, k and v pooled, positions decomposed by axis, the query added back."""

from collections.abc import Sequence
from typing import Any

from timm.models.mvitv2 import (
    MultiScaleAttention,
    cal_rel_pos_type,
    reshape_post_pool,
    reshape_pre_pool,
)
from torch import Tensor

from castling.config import LayerChoice
from castling.model.adapters.converted import ConvertedAttention
from castling.model.adapters.spec import ADAPTERS, AttentionAdapter, Call, CoreLayer, num_params
from castling.operators.spec import TokenGrid


class ConvertedMultiScaleAttention(ConvertedAttention):
    """MViTv2's pooling attention (Li et al., CVPR 2022) with another core.

    Pooling of q, k and v and the residual query stay. Our choice, as Castling-ViT leaves it open:
    the decomposed relative positions are part of the softmax, so the masked branch uses them, and
    they are dropped with it; if the keys are pooled more than the queries, the value of a query is
    that of the key that covers its position.
    """

    training_only = ("rel_pos_h", "rel_pos_w")
    rel_pos_h: Tensor
    rel_pos_w: Tensor

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.has_cls_token, self.residual_pooling = stock.has_cls_token, stock.residual_pooling
        self.grids = (
            (layer.queries, layer.query_stride),
            (layer.keys, layer.key_stride),
        )
        self.query_map = [layer.queries.height, layer.queries.width]
        self.key_map = [layer.keys.height, layer.keys.width]
        if hasattr(self, "auxiliary") and stock.rel_pos_type == "spatial":
            self.rel_pos_h, self.rel_pos_w = stock.rel_pos_h, stock.rel_pos_w

    def bias(self, q: Tensor) -> Tensor | None:
        """Return the logits of the relative positions, (batch, head, query, key)."""
        if not hasattr(self, "rel_pos_h"):
            return None
        num_keys = self.key_map[0] * self.key_map[1] + int(self.has_cls_token)
        nothing = q.new_zeros(*q.shape[:3], num_keys)
        return cal_rel_pos_type(
            nothing, q, self.has_cls_token, self.query_map, self.key_map,
            self.rel_pos_h, self.rel_pos_w,
        )  # fmt: skip

    def forward(self, x: Tensor, feat_size: Sequence[int | Tensor]) -> tuple[Tensor, list[int]]:
        """Mix tokens (batch, token, channel) of a map; returns them with the size of theirs.

        Sizes are whole numbers, or tensors while torch traces.
        """
        for grid, stride in self.grids:
            grid.check_sides(*(-(-side // stride) for side in feat_size))
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = self._pooled("q", q, feat_size)
        mixed = self.mix(q, self._pooled("k", k, feat_size), self._pooled("v", v, feat_size))
        if self.residual_pooling:
            mixed = mixed + q
        return self.proj(mixed.transpose(1, 2).flatten(2)), self.query_map

    def _pooled(self, name: str, x: Tensor, feat_size: Sequence[int | Tensor]) -> Tensor:
        pool, norm = getattr(self, f"pool_{name}", None), getattr(self, f"norm_{name}", None)
        if pool is not None:
            x, class_token = reshape_pre_pool(x, feat_size, self.has_cls_token)
            x, _ = reshape_post_pool(pool(x), self.num_heads, class_token)
        return x if norm is None else norm(x)


_PARTS = ("qkv", "proj", "pool_q", "pool_k", "pool_v", "norm_q", "norm_k", "norm_v")


def _layer(call: Call) -> CoreLayer | str:
    module = call.module
    if module.unshared:
        return "pools all heads together"
    prefix = int(module.has_cls_token)
    feat_size = call.inputs[1]
    strides = {
        name: getattr(module, f"pool_{name}").stride if getattr(module, f"pool_{name}") else 1
        for name in ("q", "k")
    }
    query_stride, key_stride = (
        stride if isinstance(stride, int) else stride[0] for stride in strides.values()
    )

    def grid(stride: int) -> TokenGrid:
        height, width = (-(-side // stride) for side in feat_size)
        return TokenGrid(height=height, width=width, num_prefix=prefix)

    unchanged = sum(call.macs.get(name, 0) for name in _PARTS)
    return CoreLayer.of(
        call,
        ConvertedMultiScaleAttention,
        kept_macs=unchanged,
        sizes=(module.head_dim, module.head_dim),
        queries=grid(query_stride),
        keys=grid(key_stride),
        biases=num_params(module) - num_params(module, *_PARTS),
        query_stride=query_stride,
        key_stride=key_stride,
    )


ADAPTERS.add(
    "multiscale",
    AttentionAdapter(
        summary="MViTv2: pooled queries, keys and values, residual query, relative positions",
        knows=lambda module: type(module) is MultiScaleAttention,
        layer=_layer,
    ),
)
