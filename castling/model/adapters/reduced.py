"""PVTv2's and Twins' attention: keys and values of a reduced grid, or of windows."""

import math
from typing import Any

from timm.models.pvt_v2 import Attention
from timm.models.swin_transformer import window_partition, window_reverse
from timm.models.twins import GlobalSubSampleAttn, LocallyGroupedAttn
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.converted import ConvertedAttention
from castling.model.adapters.spec import ADAPTERS, AttentionAdapter, Call, CoreLayer, input_tensor
from castling.operators.spec import TokenGrid


class ConvertedReducedAttention(ConvertedAttention):
    """PVTv2's (Wang et al., 2022) and Twins' (Chu et al., 2021) attention with another core.

    The reduction of the keys stays. Our choice, as Castling-ViT leaves it open: the value of a
    query is that of the key that covers its position.
    """

    q: nn.Module
    kv: nn.Module
    sr: nn.Module
    norm: nn.Module
    proj_drop: nn.Module

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.map = layer.queries

    def bias(self, q: Tensor) -> None:
        """Return None: its softmax has no bias."""

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """Mix tokens of a map of a size that timm passes too; (batch, token, channel)."""
        if self.grid is not None or hasattr(self, "sr"):
            self.map.check_sides(*size)
        q = self._heads(self.q(x))
        k, v = (self._heads(part) for part in self.kv(self._reduced(x)).chunk(2, dim=-1))
        return self.proj_drop(self.proj(self.mix(q, k, v).transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _reduced(self, x: Tensor) -> Tensor:
        """Return the tokens of the keys: of patches, or pooled to a fixed size."""
        if not hasattr(self, "sr"):
            return x
        image = x.transpose(1, 2).unflatten(2, (self.map.height, self.map.width))
        pool, act = getattr(self, "pool", None), getattr(self, "act", None)
        reduced = self.sr(image if pool is None else pool(image)).flatten(2).transpose(1, 2)
        return self.norm(reduced) if act is None else act(self.norm(reduced))


class ConvertedLocalAttention(ConvertedAttention):
    """Twins' attention in windows with another core, each window converted separately.

    Our choice, as Castling-ViT leaves it open: windows stay, as the layers in between see the
    whole map.
    """

    proj_drop: nn.Module

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.window = (stock.ws, stock.ws)

    def bias(self, q: Tensor) -> None:
        """Return None: its softmax has no bias."""

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """Mix tokens within the windows of a map; (batch, token, channel).

        Sizes are whole numbers, or tensors while torch traces.
        """
        height, width = size
        below, right = (-side % window for side, window in zip(size, self.window, strict=True))
        image = nn.functional.pad(x.unflatten(1, (height, width)), (0, 0, 0, right, 0, below))
        qkv = self.qkv(window_partition(image, self.window).flatten(1, 2))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.mix(q, k, v).transpose(1, 2).flatten(2).unflatten(1, self.window)
        image = window_reverse(mixed, self.window, height + below, width + right)
        return self.proj_drop(self.proj(image[:, :height, :width].flatten(1, 2)))


def _layer(call: Call) -> CoreLayer:
    module = call.module
    height, width = call.inputs[1]
    grid = TokenGrid(height=int(height), width=int(width))
    is_local = isinstance(module, LocallyGroupedAttn)
    window = TokenGrid(height=module.ws, width=module.ws) if is_local else grid
    keys, stride = (window, 1) if is_local else _keys(module, grid)
    names = ("q", "kv", "sr", "qkv", "proj")
    unchanged = sum(call.macs.get(name, 0) for name in names)
    size = input_tensor(call).shape[-1] // module.num_heads
    return CoreLayer.of(
        call,
        ConvertedLocalAttention if is_local else ConvertedReducedAttention,
        kept_macs=unchanged,
        sizes=(size, size),
        queries=window,
        keys=keys,
        key_stride=stride,
        repeats=math.ceil(height / window.height) * math.ceil(width / window.width),
    )


def _keys(module: Any, grid: TokenGrid) -> tuple[TokenGrid, int]:
    """Return the grid of the keys and its stride on that of the queries."""
    pool = getattr(module, "pool", None)
    if pool is not None:
        side = pool.output_size
        return TokenGrid(height=side, width=side), max(1, math.ceil(grid.height / side))
    if module.sr is None:
        return grid, 1
    stride = module.sr.stride[0]
    return TokenGrid(height=grid.height // stride, width=grid.width // stride), stride


ADAPTERS.add(
    "reduced",
    AttentionAdapter(
        summary="PVTv2, Twins: fewer keys than queries; Twins' windows, each converted in itself",
        knows=lambda module: type(module) in {Attention, GlobalSubSampleAttn, LocallyGroupedAttn},
        layer=_layer,
    ),
)
