"""MaxViT's and CoAtNet's attention: in windows, on strided grids or over the map, with biases."""

from typing import Any

from timm.models.maxxvit import Attention2d, AttentionCl
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.converted import ConvertedAttention
from castling.model.adapters.spec import (
    ADAPTERS,
    AttentionAdapter,
    Call,
    CoreLayer,
    input_tensor,
    num_params,
)
from castling.operators.spec import TokenGrid


class ConvertedMaxxAttention(ConvertedAttention):
    """The attention of MaxViT (Tu et al., ECCV 2022) and CoAtNet (Dai et al., 2021), another core.

    Our choice, as Castling-ViT leaves it open: windows and grids stay, and each is converted
    separately, as both in turn cover the whole map; the position biases belong to the softmax, so
    the masked branch uses them, and they are dropped with it.
    """

    training_only = ("rel_pos",)
    proj_drop: nn.Module

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.head_first = stock.head_first
        self.map = layer.queries

    def bias(self, q: Tensor) -> Tensor | None:  # noqa: ARG002 - some kinds need the queries
        """Return the learnt bias of every distance, (1, head, query, key)."""
        positions: Any = getattr(self, "rel_pos", None)
        return None if positions is None else positions.get_bias()

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        """Mix the tokens of maps, or of windows channels last; shapes stay."""
        self.map.check_sides(*(x.shape[2:] if self._is_map else x.shape[1:3]))
        sides = (self.map.height, self.map.width)
        qkv = self.qkv(x)
        tokens = qkv.flatten(2).transpose(1, 2) if self._is_map else qkv.flatten(1, -2)
        order = (self.num_heads, 3) if self.head_first else (3, self.num_heads)
        parts = tokens.unflatten(-1, (*order, self.key_size))
        q, k, v = (part.transpose(1, 2) for part in parts.unbind(3 if self.head_first else 2))
        mixed = self.mix(q, k, v, shared_rel_pos).transpose(1, 2).flatten(2)
        if self._is_map:
            return self.proj_drop(self.proj(mixed.transpose(1, 2).unflatten(2, sides)))
        return self.proj_drop(self.proj(mixed.unflatten(1, sides)))

    @property
    def _is_map(self) -> bool:
        return isinstance(self.qkv, nn.Conv2d)


def _layer(call: Call) -> CoreLayer | str:
    module, x = call.module, input_tensor(call)
    is_map = isinstance(module, Attention2d)
    if x.ndim != 4:
        return f"is called with {x.ndim} axes instead of those of maps"
    height, width = x.shape[2:] if is_map else x.shape[1:3]
    grid = TokenGrid(height=height, width=width)
    unchanged = call.macs["qkv"] + call.macs["proj"]
    return CoreLayer.of(
        call,
        ConvertedMaxxAttention,
        kept_macs=unchanged,
        sizes=(module.dim_head, module.dim_head),
        queries=grid,
        biases=num_params(module, "rel_pos"),
        repeats=x.shape[0],
    )


ADAPTERS.add(
    "maxxvit",
    AttentionAdapter(
        summary="MaxViT, CoAtNet: windows and grids, each converted in itself, and maps",
        knows=lambda module: type(module) in {Attention2d, AttentionCl},
        layer=_layer,
    ),
)
