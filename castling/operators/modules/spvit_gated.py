"""The module of the operator `spvit_gated`; castling.operators.spvit_gated has the formula."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from castling.operators.modules.gates import Gated, Gates
from castling.operators.modules.softmax import SoftmaxAttention
from castling.operators.modules.spvit import Bottleneck
from castling.operators.spec import (
    LayerShape,
    attention_macs,
)
from castling.operators.spvit import bottleneck_macs
from castling.operators.spvit_gated import CANDIDATES


class GatedSinglePath(SoftmaxAttention, Gated):
    """Softmax attention with three ordered gates, each of which admits the next candidate.

    The formula and its costs stand in `castling.operators.spvit_gated`.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape)
        self.conv1, self.conv3 = Bottleneck(shape, 1), Bottleneck(shape, 3)
        self.gates = Gates(len(CANDIDATES) - 1)
        self._options = dict(shape.block.options)
        costs = [0, bottleneck_macs(1)(shape), bottleneck_macs(3)(shape), attention_macs(shape)]
        self.most_macs = costs[-1]
        self._extra_macs = [dear - cheap for cheap, dear in pairwise(costs)]

    def forward(
        self, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Mix tokens as the gates say; shapes (batch, token, channel) in and out."""
        if not self.training:
            return self._candidate(self.choice(), x)
        reached = self.gates().cumprod(dim=0)
        weights = torch.cat([1.0 - reached[:1], reached[:-1] - reached[1:], reached[-1:]])
        outputs = [weight * self._candidate(each, x) for each, weight in enumerate(weights)]
        return torch.stack(outputs[1:]).sum(dim=0)

    def _candidate(
        self, number: int, x: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        if number == 0:
            return torch.zeros_like(x)
        if number == len(CANDIDATES) - 1:
            return super().forward(x)
        values = self.qkv.weight[2 * self.num_heads * self.head_size :]
        return (self.conv1, self.conv3)[number - 1].convolve(x, values, self.proj)

    def expected_macs(self) -> Tensor:
        """Return the expected MACs per image of the drawn candidate."""
        reached = self.gates.probabilities().cumprod(dim=0)
        return (reached * reached.new_tensor(self._extra_macs)).sum()

    def choice(self) -> int:
        """Return the number of the candidate that the gates choose, in `CANDIDATES`.

        On the meta device gates have no values: it is that of attention, as if all were open.
        """
        if self.gates.t.is_meta:
            return len(CANDIDATES) - 1
        return int(self.gates.decisions().long().cumprod(dim=0).sum())

    def settled(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the chosen operator: its fields and, with these weights, its state dict."""
        number, state = self.choice(), self.state_dict()
        fields = {"operator": CANDIDATES[number], "options": {}}
        if number == 0:
            return fields, {}
        proj = {name: state[name] for name in ("proj.weight", "proj.bias")}
        if number == len(CANDIDATES) - 1:
            qkv = {name: tensor for name, tensor in state.items() if name.startswith("qkv.")}
            return fields, qkv | proj
        prefix = ("conv1.", "conv3.")[number - 1]
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        values = {"v.weight": state["qkv.weight"][2 * self.num_heads * self.head_size :]}
        return {**fields, "options": self._options}, own | proj | values
