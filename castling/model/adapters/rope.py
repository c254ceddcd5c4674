"""Attention with rotary positions, of EVA, DINOv3 and rope ViTs: q and k are turned first."""

from typing import Any

import torch
from timm.layers import apply_rot_embed_cat
from timm.layers.attention import AttentionRope
from timm.models.eva import EvaAttention
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.errors import ConfigError
from castling.model.adapters.converted import ConvertedAttention, keep_biases, with_biases
from castling.model.adapters.plain import token_grid
from castling.model.adapters.spec import (
    ADAPTERS,
    AttentionAdapter,
    Call,
    CoreLayer,
    has_mask,
    input_tensor,
    product_macs,
)


class ConvertedRopeAttention(ConvertedAttention):
    """timm's `AttentionRope` and `EvaAttention` with another core.

    Rotary positions (Su et al., RoFormer, 2021) turn q and k by angles of their positions before
    their product. Our choice, as Castling-ViT leaves it open: they stay and act before any core,
    so the cost stays linear; the dot product of a turned q and k depends on their distance alone
    in linear attention too. Keys and values shared by groups of heads are repeated, as timm does.
    """

    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    proj_drop: nn.Module
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.num_prefix, self.rotate_half = stock.num_prefix_tokens, stock.rotate_half
        self.num_kv_groups = getattr(stock, "num_kv_groups", 1)
        keep_biases(self, stock)

    def bias(self, q: Tensor) -> None:
        """Return None: q and k contain the positions."""

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,  # noqa: FBT001, FBT002 - timm's
    ) -> Tensor:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        if attn_mask is not None or is_causal:
            raise ConfigError("attn_mask", "must be None where the layer has converted")
        q, k, v = self._projected(x)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = self._turned(q, rope).type_as(v), self._turned(k, rope).type_as(v)
        if self.num_kv_groups > 1:
            k, v = (part.repeat_interleave(self.num_kv_groups, dim=1) for part in (k, v))
        mixed = self.norm(self.mix(q, k, v).transpose(1, 2).flatten(2))
        gate = getattr(self, "gate", None)
        return self.proj_drop(self.proj(mixed if gate is None else mixed * gate(x).sigmoid()))

    def _projected(self, x: Tensor) -> list[Tensor]:
        """Return q, k and v, each (batch, head, token, size)."""
        if hasattr(self, "qkv"):
            parts = with_biases(self, x).chunk(3, dim=-1)
        else:
            parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        return [part.unflatten(-1, (-1, self.key_size)).transpose(1, 2) for part in parts]

    def _turned(self, x: Tensor, rope: Tensor) -> Tensor:
        """Return q or k turned by the positions of the tokens; class tokens have none."""
        image = apply_rot_embed_cat(x[:, :, self.num_prefix :], rope, half=self.rotate_half)
        return torch.cat([x[:, :, : self.num_prefix], image], dim=2)


def _layer(call: Call) -> CoreLayer | str:
    module, x = call.module, input_tensor(call)
    if has_mask(call):
        return "is called with a mask"
    grid = token_grid(call)
    if grid is None:
        return f"has {x.shape[1]} tokens, on a grid that cannot be told"
    products = product_macs(module.num_heads, grid, grid, module.head_dim)
    return CoreLayer.of(
        call,
        ConvertedRopeAttention,
        kept_macs=call.macs[""] - products,
        sizes=(module.head_dim, module.head_dim),
        queries=grid,
        sees_sides=False,
    )


ADAPTERS.add(
    "rope",
    AttentionAdapter(
        summary="EVA, DINOv3, rope ViTs: q and k turned by their places",
        knows=lambda module: type(module) in {AttentionRope, EvaAttention},
        layer=_layer,
    ),
)
