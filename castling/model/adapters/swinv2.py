"""Swin V2's window attention: as Swin's, by the cosine of q and k, with continuous positions."""

import math
from typing import Any

import torch.nn.functional as F
from timm.models.swin_transformer_v2 import SwinTransformerV2Block, WindowAttention
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.converted import keep_biases
from castling.model.adapters.spec import ADAPTERS, AttentionAdapter, Call, CoreLayer, num_params
from castling.model.adapters.swin import ConvertedWindowAttention, window_layer, with_whole_map


LARGEST_SCALE = math.log(100.0)
"""Upper bound of the logarithm of the factor of cosines, as in timm."""


class ConvertedCosineWindowAttention(ConvertedWindowAttention):
    """Swin V2's attention (Liu et al., CVPR 2022), and timm's `cr` form of it, with another core.

    As in `ConvertedWindowAttention`, the core sees the whole map. Our choice, as Castling-ViT
    leaves it open: the core receives q and k as the softmax does, of norm one, q times its learnt
    scale (which `linear_angular` ignores, as it normalises again); the masked branch uses the
    network of the position biases, which is dropped with it.
    """

    training_only = (
        "relative_position_index", "relative_coords_table", "cpb_mlp", "relative_coordinates_log",
        "meta_mlp",
    )  # fmt: skip
    relative_coords_table: Tensor
    relative_coordinates_log: Tensor
    cpb_mlp: nn.Module
    meta_mlp: nn.Module

    def __init__(self, block: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(block, layer, choice)
        keep_biases(self, block.attn)
        self.logit_scale: nn.Parameter = block.attn.logit_scale

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        q, k, v = super()._heads(qkv)
        scale = self.logit_scale.clamp(max=LARGEST_SCALE).exp().view(-1, 1)
        scale = scale * math.sqrt(self.key_size)  # which the branch divides by
        return F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v

    def _keep_positions(self, stock: Any) -> None:
        for name in (
            "relative_position_index",
            "relative_coords_table",
            "relative_coordinates_log",
        ):
            if isinstance(getattr(stock, name, None), Tensor):
                self.register_buffer(name, getattr(stock, name), persistent=False)

    def _positions(self) -> Tensor:
        """Return the bias of the relative positions in a window, (head, query, key)."""
        if hasattr(self, "meta_mlp"):
            area = math.isqrt(self.relative_coordinates_log.shape[0])
            biases = self.meta_mlp(self.relative_coordinates_log)
            return biases.transpose(0, 1).unflatten(1, (area, area))
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)
        index = self.relative_position_index
        biases = table[index.flatten()].unflatten(0, index.shape).permute(2, 0, 1)
        return 16.0 * biases.sigmoid()


def _converted(block: Any, layer: CoreLayer, choice: LayerChoice) -> nn.Module:
    converted = ConvertedCosineWindowAttention(block, layer, choice)
    return with_whole_map(block, converted, layer.queries)


def _layer(call: Call) -> CoreLayer | str:
    attention = call.module.attn
    network = "cpb_mlp" if isinstance(attention, WindowAttention) else "meta_mlp"
    return window_layer(call, num_params(attention, network), _converted)


ADAPTERS.add(
    "swinv2",
    AttentionAdapter(
        summary="Swin V2: windows become the whole map; cosines, continuous positions",
        knows=lambda module: type(module) in {SwinTransformerV2Block, SwinTransformerV2CrBlock},
        layer=_layer,
    ),
)
