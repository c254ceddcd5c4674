"""The channel mixers of a block: the plain MLP, and LightViT's with channel and spatial gates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Mlp
from torch import Tensor, nn

from castling.operators.spec import Formula, LayerShape


def hidden_width(shape: LayerShape) -> int:
    """Return the hidden channels of a block's MLP."""
    return max(1, int(shape.embed_width * shape.block.mlp_ratio))


def gate_width(shape: LayerShape) -> int:
    """Return the channels of the bi-dimensional gates: a quarter of the embed width."""
    return max(1, shape.embed_width // 4)


class BidimensionalMlp(nn.Module):
    """LightViT's MLP (Huang et al., 2022): its output is gated per channel and per token.

    With y = MLP(x) and z = LN(y): g = GELU(W_g mean over tokens of z), l = GELU(W_l z), both of
    C / 4 channels; the result is y * sigmoid(W_c g) * sigmoid(W_s [l; g]).

    Costs, beyond the plain MLP, C r + N C r + r C + 2 N r MACs with r = C / 4.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        width, gates = shape.embed_width, gate_width(shape)
        self.mlp = Mlp(width, hidden_width(shape))
        self.norm_gate = nn.LayerNorm(width, eps=1e-6)
        self.global_reduce = nn.Linear(width, gates)
        self.local_reduce = nn.Linear(width, gates)
        self.channel_select = nn.Linear(gates, width)
        self.spatial_select = nn.Linear(2 * gates, 1)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix channels; shapes (batch, token, channel) in and out."""
        y = self.mlp(x)
        z = self.norm_gate(y)
        whole = F.gelu(self.global_reduce(z.mean(dim=1, keepdim=True)))
        local = F.gelu(self.local_reduce(z))
        channel = self.channel_select(whole).sigmoid()
        both = torch.cat([local, whole.expand_as(local)], dim=-1)
        return y * channel * self.spatial_select(both).sigmoid()


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """A channel mixer: how to build it and what it costs."""

    build: Callable[[LayerShape], nn.Module]
    macs: Formula
    params: Formula


def _plain(shape: LayerShape) -> nn.Module:
    return Mlp(shape.embed_width, hidden_width(shape))


def _plain_macs(shape: LayerShape) -> int:
    return 2 * shape.grid.num_tokens * shape.embed_width * hidden_width(shape)


def _plain_params(shape: LayerShape) -> int:
    width, hidden = shape.embed_width, hidden_width(shape)
    return 2 * width * hidden + hidden + width


def _gated_macs(shape: LayerShape) -> int:
    tokens, width, gates = shape.grid.num_tokens, shape.embed_width, gate_width(shape)
    return _plain_macs(shape) + 2 * width * gates + tokens * width * gates + 2 * tokens * gates


def _gated_params(shape: LayerShape) -> int:
    width, gates = shape.embed_width, gate_width(shape)
    gated = 2 * (width + 1) * gates + (gates + 1) * width + 2 * gates + 1
    return _plain_params(shape) + 2 * width + gated


MLPS: Mapping[str, MlpSpec] = {
    "plain": MlpSpec(build=_plain, macs=_plain_macs, params=_plain_params),
    "bidimensional": MlpSpec(build=BidimensionalMlp, macs=_gated_macs, params=_gated_params),
}
"""By the names that `BlockConfig.mlp` takes."""
