"""Gates that training opens and closes: Bernoulli draws with a straight-through gradient."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


TEMPERATURE = 1.0
"""Temperature of the soft draws that the gradient passes through, as in SPViT."""


class Gates(nn.Module):
    """A vector of gates, each open with probability p = sigmoid(t), t = 1.5 at first.

    In training mode every forward pass draws the gates anew, 0 or 1, as whether the soft draw
    sigmoid((t + logistic noise) / temperature) exceeds one half; the gradient is the soft draw's
    (straight through). In eval mode a gate is open where p exceeds one half. Source: He et al.,
    Pruning Self-attentions into Convolutional Layers in Single Path, 2021.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.full((count,), 1.5))

    def forward(self) -> Float[Tensor, " gate"]:
        """Return the gates, 0.0 or 1.0."""
        if not self.training:
            return self.decisions().to(self.t.dtype)
        uniform = torch.rand_like(self.t).clamp(1e-6, 1.0 - 1e-6)
        soft = ((self.t + uniform.logit()) / TEMPERATURE).sigmoid()
        return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())

    def probabilities(self) -> Float[Tensor, " gate"]:
        """Return p of every gate, with its gradient."""
        return self.t.sigmoid()

    def decisions(self) -> Tensor:
        """Return for every gate whether it stays open when the model settles."""
        return self.t > 0.0


class Gated(nn.Module, ABC):
    """A module with gates, whose cost a training can push towards a target."""

    most_macs: int
    """MACs per image with every gate open."""

    @abstractmethod
    def expected_macs(self) -> Tensor:
        """Return the expected MACs per image under the gates' probabilities, with gradient."""

    @abstractmethod
    def settled(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the replacement of this module: fields of its BlockConfig, and a state dict."""


def gated(model: nn.Module) -> list[Gated]:
    """Return the gated modules of a model, first layer to last."""
    return [module for module in model.modules() if isinstance(module, Gated)]


def cost_penalty(modules: list[Gated], target: float) -> Tensor | float:
    """Return (expected / (target * most) - 1)^2 over all gated modules together, 0 without any.

    Args:
        modules: those whose cost counts.
        target: the target MACs, as a fraction of those with every gate open.
    """
    if not modules:
        return 0.0
    expected = torch.stack([module.expected_macs() for module in modules]).sum()
    return (expected / (target * sum(module.most_macs for module in modules)) - 1.0) ** 2
