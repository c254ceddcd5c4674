"""The torch modules of a block's MLPs; castling.blocks.mlp has their closed forms."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.layers import Mlp
from torch import Tensor, nn

from castling.blocks.mlp import gate_width, hidden_width, plain_macs
from castling.operators.modules.gates import Gated, Gates
from castling.operators.spec import LayerShape


def plain(shape: LayerShape) -> Mlp:
    """Return timm's MLP: W_2 GELU(W_1 x)."""
    return Mlp(shape.embed_width, hidden_width(shape))


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
    """SPViT's MLP (He et al., 2021): a gate per hidden unit, which training may close permanently.

    y = W_2 (g * GELU(W_1 x)), g the gates (`Gates`); `settle` removes the units whose gate is
    closed in the end; if all are, the most probable one stays. Until then it costs as much as the
    plain MLP.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        hidden = hidden_width(shape)
        self.mlp = Mlp(shape.embed_width, hidden)
        self.gates = Gates(hidden)
        self.most_macs = plain_macs(shape)

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
