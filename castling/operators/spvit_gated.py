"""SPViT's single path: attention that may shrink to a convolution or nothing while it trains."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from castling.operators.gates import Gated, Gates
from castling.operators.softmax import SoftmaxAttention
from castling.operators.spec import (
    OPERATORS,
    LayerShape,
    OperatorSpec,
    attention_macs,
    projection_params,
)
from castling.operators.spvit import Bottleneck, SpvitOptions, bottleneck_macs, serves


CANDIDATES = ("skip", "spvit_conv1", "spvit_conv3", "softmax")
"""Operators that a gated layer settles to, cheapest first."""


class GatedSinglePath(SoftmaxAttention, Gated):
    """Softmax attention with three ordered gates, each of which lets the next candidate in.

    Source: He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021. The
    candidates skip < 1x1 bottleneck < 3x3 bottleneck < attention share the attention's weights.
    With gates g_1, g_2, g_3 (`Gates`) and c_i = g_1 ... g_i the candidates' weights are 1 - c_1,
    c_1 - c_2, c_2 - c_3 and c_3: of which exactly one is 1. In training mode all candidates are
    computed, so that the straight-through gradient sees them; in eval mode only the one that the
    gates decide for. x and the result are (batch, token, channel).

    The loss has a penalty (`cost_penalty`) that pulls the expected MACs of all gated modules to a
    target. The paper takes the cost of the drawn gates in GFLOPs; here it is the expectation, as a
    fraction, so that one weight serves models of every size. Scores and batch norms of the two
    convolutions are separate (the release shares nine scores, of which 1x1 reads the fifth).
    `settle` makes the chosen candidate an operator of its own, with the weights trained here.

    Cost per layer: that of softmax attention while the gates decide for it; in training mode that
    of both bottlenecks beside it.
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
        """Return the number of the candidate that the gates decide for, in `CANDIDATES`.

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


def _params(shape: LayerShape) -> int:
    heads, size = shape.block.num_heads, shape.block.head_size
    scores, norms, gates = heads * (1 + 9), 2 * 2 * size, len(CANDIDATES) - 1
    return projection_params(shape) + scores + norms + gates


OPERATORS.add(
    "spvit_gated",
    OperatorSpec(
        summary="SPViT: gates that shrink attention to a convolution or nothing while it trains",
        source="He et al., Pruning Self-attentions into Convolutional Layers in Single Path, 2021",
        build=GatedSinglePath,
        uses=frozenset({"num_heads", "head_size"}),
        macs=attention_macs,
        params=_params,
        training_macs=attention_macs,
        options=SpvitOptions,
        check=serves,
        searchable=False,
    ),
)
