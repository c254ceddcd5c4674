"""timm's standard attention, of ViT and DeiT, which any operator can replace."""

import math
from dataclasses import dataclass
from typing import Any

from timm.layers.attention import Attention
from torch import Tensor, nn

from castling.config import BlockConfig, LayerChoice
from castling.errors import ConfigError
from castling.model.adapters.converted import ConvertedAttention
from castling.model.adapters.spec import (
    ADAPTERS,
    AttentionAdapter,
    AttentionLayer,
    Call,
    CoreLayer,
    has_mask,
    input_tensor,
    is_off,
    num_params,
    placed_like,
)
from castling.model.keep import keep_weights
from castling.operators import OPERATORS
from castling.operators.spec import LayerShape, TokenGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeLayer(AttentionLayer):
    """A plain attention, whose projections are those of castling's operators."""

    embed_width: int
    num_heads: int
    head_size: int
    grid: TokenGrid
    qkv_bias: bool
    index: int

    @property
    def tokens(self) -> tuple[int, int]:
        """Numbers of queries and of keys, class tokens included."""
        return self.grid.num_tokens, self.grid.num_tokens

    def incompatibility(self, choice: LayerChoice) -> str:
        """Return the rule of the operator that the layer breaks, if any."""
        return OPERATORS[choice.operator].check(self.shape(choice))

    def macs(self, choice: LayerChoice) -> int:
        """Return the operator's closed form."""
        return OPERATORS[choice.operator].macs(self.shape(choice))

    def params(self, choice: LayerChoice) -> int:
        """Return the operator's closed form."""
        return OPERATORS[choice.operator].params(self.shape(choice))

    def training_macs(self, choice: LayerChoice) -> int:
        """Return the operator's closed form."""
        return OPERATORS[choice.operator].training_macs(self.shape(choice))

    def converted(self, stock: nn.Module, choice: LayerChoice) -> nn.Module:
        """Return the operator's module with timm's weights wherever name and shape agree."""
        module = OPERATORS[choice.operator].build(self.shape(choice))
        keep_weights(module, stock.state_dict())
        module.register_forward_pre_hook(_drop_absent_mask, with_kwargs=True)
        return placed_like(stock, module)

    def shape(self, choice: LayerChoice) -> LayerShape:
        """Return the shape from which the operator is built and priced."""
        fields = {name: getattr(choice, name) for name in LayerChoice.model_fields}
        fields |= {"num_heads": self.num_heads, "head_size": self.head_size}
        return LayerShape(
            block=BlockConfig.model_construct(**fields),  # the choice is checked already
            embed_width=self.embed_width,
            grid=self.grid,
            qkv_bias=self.qkv_bias,
            index=self.index,
        )


def _drop_absent_mask(
    _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let timm's blocks call an operator: they pass a mask of None, which it does not take."""
    if any(
        value is not None and value is not False for value in (*positional[1:], *named.values())
    ):
        raise ConfigError("attn_mask", "must be None where the layer has converted")
    return positional[:1], {}


class ConvertedTokenAttention(ConvertedAttention):
    """timm's `Attention` with norms of q and k, a gate or dropout around another core."""

    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    proj_drop: nn.Module

    def bias(self, q: Tensor) -> None:
        """Return None: its softmax has no bias."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,  # noqa: FBT001, FBT002 - timm's
    ) -> Tensor:
        """Mix tokens; shapes (batch, token, channel) in and out."""
        if attn_mask is not None or is_causal:
            raise ConfigError("attn_mask", "must be None where the layer has converted")
        gate = getattr(self, "gate", None)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.mix(self.q_norm(q), self.k_norm(k), v).transpose(1, 2).flatten(2)
        mixed = self.norm(mixed)
        return self.proj_drop(self.proj(mixed if gate is None else mixed * gate(x).sigmoid()))


def token_grid(call: Call) -> TokenGrid | None:
    """Return the grid of an attention's tokens, or None if it is unclear.

    It is the model's grid of patches, or else the square of the tokens without class tokens.
    """
    num_tokens = input_tensor(call).shape[1]
    num_prefix = int(getattr(call.model, "num_prefix_tokens", 0) or 0)
    patches = getattr(getattr(call.model, "patch_embed", None), "grid_size", None)
    if patches is not None and num_tokens - patches[0] * patches[1] == num_prefix:
        return TokenGrid(height=patches[0], width=patches[1], num_prefix=num_prefix)
    for prefix in (num_prefix, 0, 1, 2):
        side = math.isqrt(max(num_tokens - prefix, 0))
        if side and side * side == num_tokens - prefix:
            return TokenGrid(height=side, width=side, num_prefix=prefix)
    return None


def _layer(call: Call) -> AttentionLayer | str:
    module, x = call.module, input_tensor(call)
    assert isinstance(module, Attention)
    if any(positional is not None for positional in call.inputs[1:]) or has_mask(call):
        return "is called with a mask"
    if x.ndim != 3:
        return f"is called with {x.ndim} axes instead of batch, token and channel"
    grid = token_grid(call)
    if grid is None:
        return f"has {x.shape[1]} tokens, on a grid that cannot be told"
    if getattr(call.model, "dynamic_img_size", False):
        return "takes images of any size, for which mask and convolution have no grid"
    plain = is_off(
        module.q_norm, module.k_norm, module.norm, module.gate, module.attn_drop, module.proj_drop
    )
    width = module.proj.out_features
    if plain and x.shape[0] == 1 and width == x.shape[-1] and module.proj.bias is not None:
        return WholeLayer(
            name=call.name,
            stock_macs=call.macs[""],
            stock_params=num_params(module),
            embed_width=width,
            num_heads=module.num_heads,
            head_size=module.head_dim,
            grid=grid,
            qkv_bias=module.qkv.bias is not None,
            index=_index(call),
        )
    unchanged = call.macs.get("qkv", 0) + call.macs.get("proj", 0) + call.macs.get("gate", 0)
    return CoreLayer.of(
        call,
        ConvertedTokenAttention,
        kept_macs=unchanged,
        sizes=(module.head_dim, module.head_dim),
        queries=grid,
        repeats=x.shape[0],
        sees_sides=False,
    )


def _index(call: Call) -> int:
    """Return the position among the model's attentions of this kind."""
    paths = [name for name, part in call.model.named_modules() if isinstance(part, Attention)]
    return paths.index(call.name)


ADAPTERS.add(
    "plain",
    AttentionAdapter(
        summary="standard attention of ViT and DeiT: any operator; normed, gated: cores",
        knows=lambda module: type(module) is Attention,
        layer=_layer,
    ),
)
