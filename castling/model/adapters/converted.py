"""Attention of timm with another core: the base of all converted attentions."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.model.adapters.spec import CoreLayer, has_branch
from castling.model.sizes import check_bias, holds_grid
from castling.operators import OPERATORS
from castling.operators.modules.auxiliary import AuxiliaryBranch, alive_branch
from castling.operators.modules.training_only import BranchHolder


class ConvertedAttention(BranchHolder, ABC):
    """Timm's attention with another core: its parts keep their names, so its weights load.

    Abstract: a kind of attention adds its forward pass, and `bias`, if its softmax has one;
        `training_only` names the parts that only its softmax needs, which are dropped with the
        branch.
    """

    qkv: nn.Module
    proj: nn.Module

    def __init__(self, stock: nn.Module, layer: CoreLayer, choice: LayerChoice) -> None:
        super().__init__()
        trains_branch = has_branch(choice)
        for name, part in stock.named_children():
            if trains_branch or name not in self.training_only:
                self.add_module(name, part)
        core = OPERATORS[choice.operator].core
        assert core is not None  # the incompatibility of a CoreLayer
        self.num_heads = layer.num_heads
        self.key_size, self.value_size = layer.key_size, layer.value_size
        self.core = core.build(layer.shape(choice))
        self.grid = layer.queries if holds_grid(self.core) else None
        """The grid of the queries if the core depends on it: maps must have its sides."""
        if trains_branch:
            assert choice.mask is not None
            self.auxiliary = AuxiliaryBranch(choice.mask, layer.branch_keys)

    @abstractmethod
    def bias(self, q: Tensor) -> Tensor | None:
        """Return what timm's attention adds to its logits before the softmax."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, shared: Tensor | None = None) -> Tensor:
        """Mix values per head: the core, and in training the masked branch with its bias.

        Args:
            q: (batch, head, query, key size).
            k: (batch, head, key, key size).
            v: (batch, head, key, value size).
            shared: a bias that layers share, (..., head, query, key), added to the layer's bias.

        Returns:
            (batch, head, query, value size).
        """
        alive = alive_branch(self) is not None
        return self.core(q, k, v, self.added(q, k, v, shared) if alive else None)

    def added(self, q: Tensor, k: Tensor, v: Tensor, shared: Tensor | None) -> Tensor:
        """Return what the masked branch adds; shapes as of `mix`."""
        specific = self.bias(q)
        bias = shared if specific is None else specific if shared is None else specific + shared
        if bias is not None:
            check_bias(bias, q.shape[2], k.shape[2])
        branch: nn.Module = self.auxiliary
        return branch(q, k, v, bias)


def keep_biases(converted: nn.Module, stock: Any) -> None:
    """Keep the biases of q and v where they stand apart from the projection."""
    if getattr(stock, "q_bias", None) is not None:
        converted.q_bias, converted.v_bias = stock.q_bias, stock.v_bias


def with_biases(converted: Any, x: Tensor) -> Tensor:
    """Return q, k and v side by side, where the biases of q and v may stand apart."""
    if not hasattr(converted, "q_bias"):
        return converted.qkv(x)
    return F.linear(x, converted.qkv.weight, bias_of_qkv(converted))


def bias_of_qkv(converted: Any) -> Tensor:
    """Return the biases of q, k and v; where those of q and v stand apart, k has none."""
    if hasattr(converted, "q_bias"):
        return torch.cat([converted.q_bias, torch.zeros_like(converted.q_bias), converted.v_bias])
    weight, bias = converted.qkv.weight, converted.qkv.bias
    return weight.new_zeros(weight.shape[0]) if bias is None else bias
