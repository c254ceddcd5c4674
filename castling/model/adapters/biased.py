"""Attention with learnt position biases, of BEiT and vit_relpos; only the branch uses them."""

from typing import Any

from timm.models.beit import Attention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.converted import ConvertedAttention, keep_biases, with_biases
from castling.model.adapters.plain import token_grid
from castling.model.adapters.spec import (
    ADAPTERS,
    AttentionAdapter,
    Call,
    CoreLayer,
    input_tensor,
    num_params,
)


class ConvertedBiasedAttention(ConvertedAttention):
    """The attention of BEiT (Bao et al., ICLR 2022) and of vit_relpos with another core.

    Our choice, as Castling-ViT leaves it open: the position biases belong to the softmax, so the
    masked branch uses them, and they are dropped with it. Biases that all layers share stay in the
    model, unused.
    """

    training_only = ("rel_pos", "relative_position_bias_table", "relative_position_index")
    q_norm: nn.Module
    k_norm: nn.Module
    proj_drop: nn.Module
    relative_position_bias_table: Tensor
    relative_position_index: Tensor

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        keep_biases(self, stock)
        table = getattr(stock, "relative_position_bias_table", None)
        if hasattr(self, "auxiliary") and table is not None:
            self.relative_position_bias_table = table
            index = stock.relative_position_index
            self.register_buffer("relative_position_index", index, persistent=False)

    def bias(self, q: Tensor) -> Tensor | None:  # noqa: ARG002 - some kinds need the queries
        """Return the learnt bias of every distance, (..., head, query, key)."""
        positions: Any = getattr(self, "rel_pos", None)
        if positions is not None:
            return positions.get_bias()
        if not hasattr(self, "relative_position_bias_table"):
            return None
        index = self.relative_position_index
        biases = self.relative_position_bias_table[index.flatten()]
        return biases.unflatten(0, index.shape).permute(2, 0, 1)

    def forward(
        self,
        x: Tensor,
        shared_rel_pos_bias: Tensor | None = None,
        shared_rel_pos: Tensor | None = None,
    ) -> Tensor:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        qkv = with_biases(self, x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        shared = shared_rel_pos if shared_rel_pos_bias is None else shared_rel_pos_bias
        return self.proj_drop(self.proj(self.mix(q, k, v, shared).transpose(1, 2).flatten(2)))


def _layer(call: Call) -> CoreLayer | str:
    module, x = call.module, input_tensor(call)
    grid = token_grid(call)
    if grid is None:
        return f"has {x.shape[1]} tokens, on a grid that cannot be told"
    size = module.qkv.out_features // (3 * module.num_heads)
    projections = grid.num_tokens * (module.qkv.weight.numel() + module.proj.weight.numel())
    table = getattr(module, "relative_position_bias_table", None)
    biases = num_params(module, "rel_pos") + (0 if table is None else table.numel())
    return CoreLayer.of(
        call,
        ConvertedBiasedAttention,
        kept_macs=projections,
        sizes=(size, size),
        queries=grid,
        biases=biases,
        sees_sides=False,
    )


ADAPTERS.add(
    "biased",
    AttentionAdapter(
        summary="BEiT, vit_relpos: position biases in the softmax",
        knows=lambda module: type(module) in {Attention, RelPosAttention},
        layer=_layer,
    ),
)
