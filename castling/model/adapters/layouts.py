"""Standard attention on other layouts of tokens: maps, blocks, windows."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from timm.models.davit import WindowAttention
from timm.models.fastvit import Attention as FastVitAttention
from timm.models.metaformer import Attention as MetaFormerAttention
from timm.models.nest import Attention as NestAttention
from timm.models.visformer import Attention as VisformerAttention
from timm.models.volo import Attention as VoloAttention
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.converted import ConvertedAttention
from castling.model.adapters.plain import token_grid
from castling.model.adapters.spec import ADAPTERS, AttentionAdapter, Call, CoreLayer, input_tensor
from castling.operators.spec import TokenGrid


Layout = Literal["map", "image", "blocks", "windows", "tokens"]
"""map: (batch, channel, height, width); image: channels last; blocks: (batch, block, token,
channel); windows: (batch x window, token, channel); tokens: (batch, token, channel).
"""

LAYOUTS: Mapping[type[nn.Module], Layout] = {
    FastVitAttention: "map",
    VisformerAttention: "map",
    VoloAttention: "image",
    NestAttention: "blocks",
    WindowAttention: "windows",
    MetaFormerAttention: "tokens",
}


class ConvertedLaidOutAttention(ConvertedAttention):
    """Attention of FastViT, Visformer, VOLO, NesT, DaViT and MetaFormer with another core.

    Our choice, as Castling-ViT leaves it open: blocks (NesT) and windows (DaViT) stay, and each is
    converted separately, as other parts of these models connect them.
    """

    def __init__(self, stock: Any, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__(stock, layer, choice)
        self.layout = LAYOUTS[type(stock)]
        self.convolves = isinstance(stock.qkv, nn.Conv2d)

    def bias(self, q: Tensor) -> None:
        """Return None: its softmax has no bias."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens; the shape stays, as the family lays tokens out."""
        if self.grid is not None and self.layout in {"map", "image"}:
            height, width = x.shape[2:] if self.layout == "map" else x.shape[1:3]
            self.grid.check_sides(height, width)
        qkv = self._tokens(self.qkv(x)) if self.convolves else self.qkv(self._tokens(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.mix(q, k, v).transpose(1, 2)
        if self.layout == "blocks":  # NesT has the heads innermost
            mixed = mixed.transpose(2, 3)
        mixed = mixed.flatten(2)
        if self.convolves:
            mixed = self.proj(self._laid_out(mixed, x))
        else:
            mixed = self._laid_out(self.proj(mixed), x)
        drop = getattr(self, "proj_drop", None)
        return mixed if drop is None else drop(mixed)

    def _tokens(self, x: Tensor) -> Tensor:
        """Return (batch x block, token, channel)."""
        match self.layout:
            case "map":
                return x.flatten(2).transpose(1, 2)
            case "image":
                return x.flatten(1, 2)
            case "blocks":
                return x.flatten(0, 1)
        return x

    def _laid_out(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Undo `_tokens`."""
        match self.layout:
            case "map":
                return tokens.transpose(1, 2).unflatten(2, like.shape[2:])
            case "image":
                return tokens.unflatten(1, like.shape[1:3])
            case "blocks":
                return tokens.unflatten(0, like.shape[:2])
        return tokens


def _grid(call: Call) -> TokenGrid | None:
    """Return the grid of the tokens that attend to one another; blocks are square."""
    x = input_tensor(call)
    layout = LAYOUTS[type(call.module)]
    if layout == "tokens":
        return token_grid(call)
    if layout == "windows":
        height, width = call.module.window_size
    elif layout == "blocks":
        height = width = math.isqrt(x.shape[2])
    else:
        height, width = x.shape[2:] if layout == "map" else x.shape[1:3]
    return TokenGrid(height=height, width=width)


def _layer(call: Call) -> CoreLayer | str:
    module, x = call.module, input_tensor(call)
    grid = _grid(call)
    if grid is None:
        return f"has {x.shape[1]} tokens, on a grid that cannot be told"
    qkv = module.qkv
    width = (qkv.out_channels if isinstance(qkv, nn.Conv2d) else qkv.out_features) // 3
    unchanged = call.macs["qkv"] + call.macs["proj"]
    size = width // module.num_heads
    return CoreLayer.of(
        call,
        ConvertedLaidOutAttention,
        kept_macs=unchanged,
        sizes=(size, size),
        queries=grid,
        repeats=unchanged // (grid.num_tokens * num_weights(module)),
        sees_sides=LAYOUTS[type(module)] != "tokens",
    )


def num_weights(module: Any) -> int:
    """Return the weights of the projections: the multiply-accumulates of one token."""
    return module.qkv.weight.numel() + module.proj.weight.numel()


ADAPTERS.add(
    "layouts",
    AttentionAdapter(
        summary="FastViT, Visformer, VOLO, NesT, DaViT, MetaFormer: maps, blocks, windows",
        knows=lambda module: type(module) in LAYOUTS,
        layer=_layer,
    ),
)
