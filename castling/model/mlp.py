"""The channel mixers of a block: the plain MLP, LightViT's gated one, and SPViT's that shrinks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.layers import Mlp
from torch import Tensor, nn

from castling.costs.cost import Cost
from castling.operators.gates import Gated, Gates
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


class ShrinkingMlp(Gated):
    """SPViT's MLP (He et al., 2021): a gate per hidden unit, which training may shut for good.

    y = W_2 (g * GELU(W_1 x)), g the gates (`Gates`); `settle` removes the units whose gate ends
    shut, but for the likeliest one where all do. Until then it costs what the plain MLP costs.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        hidden = hidden_width(shape)
        self.mlp = Mlp(shape.embed_width, hidden)
        self.gates = Gates(hidden)
        self.most_macs = _plain_macs(shape)

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix channels; shapes (batch, token, channel) in and out."""
        return self.mlp.fc2(self.mlp.act(self.mlp.fc1(x)) * self._open())

    def _open(self) -> Float[Tensor, " hidden"]:
        return self.gates() if self.training else self.kept().to(self.gates.t.dtype)

    def expected_macs(self) -> Tensor:
        """Return the expected MACs per image of the open units."""
        return self.gates.probabilities().mean() * self.most_macs

    def kept(self) -> Bool[Tensor, " hidden"]:
        """Return which hidden units stay when the model settles: one at least."""
        t = self.gates.t
        return self.gates.decisions() | (t == t.max())

    def settled(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the plain MLP that has only the units that stay: its fields and state dict."""
        kept, state = self.kept(), self.mlp.state_dict()
        ratio = (int(kept.sum()) + 0.5) / state["fc1.weight"].shape[1]  # rounded down to the units
        return {"mlp": "plain", "mlp_ratio": ratio}, {
            "fc1.weight": state["fc1.weight"][kept],
            "fc1.bias": state["fc1.bias"][kept],
            "fc2.weight": state["fc2.weight"][:, kept],
            "fc2.bias": state["fc2.bias"],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """A channel mixer: how to build it and what it costs."""

    build: Callable[[LayerShape], nn.Module]
    macs: Formula
    params: Formula

    def cost(self, shape: LayerShape) -> Cost:
        """Return the cost of the MLP of one block."""
        macs = self.macs(shape)
        return Cost(macs=macs, params=self.params(shape), training_macs=macs)


def _plain(shape: LayerShape) -> nn.Module:
    return Mlp(shape.embed_width, hidden_width(shape))


def _plain_macs(shape: LayerShape) -> int:
    return 2 * shape.grid.num_tokens * shape.embed_width * hidden_width(shape)


def _plain_params(shape: LayerShape) -> int:
    width, hidden = shape.embed_width, hidden_width(shape)
    return 2 * width * hidden + hidden + width


def _shrinking_params(shape: LayerShape) -> int:
    return _plain_params(shape) + hidden_width(shape)


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
    "shrinking": MlpSpec(build=ShrinkingMlp, macs=_plain_macs, params=_shrinking_params),
}
"""By the names that `BlockConfig.mlp` takes."""
