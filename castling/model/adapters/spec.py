"""The contract of adapters for kinds of timm's attention: layers, their cost and conversion."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from castling.config import LayerChoice
from castling.costs.cost import Cost
from castling.operators import OPERATORS
from castling.operators.spec import CoreShape, TokenGrid
from castling.registry import Registry


KEEP = "softmax"
"""The choice that does not change timm's attention, whatever its softmax is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The call of an attention in one forward pass of one image."""

    name: str
    """Dotted path of the module in the model."""
    module: Any
    """timm's module, whose attributes have no types."""
    inputs: tuple[Any, ...]
    """Positional arguments of the call; tensors are of one image."""
    model: nn.Module
    macs: Mapping[str, int]
    """Multiply-accumulates inside the module, by the path below it; the total under ""."""
    named: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayer(ABC):
    """An attention of a backbone, and the cost of every choice for it."""

    name: str
    """Dotted path of the module that is replaced."""
    stock_macs: int
    """Multiply-accumulates per image of timm's module."""
    stock_params: int
    """Parameters of timm's module."""
    sees_sides: bool = False
    """Whether a call shows the sides of its map or window; otherwise it shows only tokens."""

    @property
    @abstractmethod
    def tokens(self) -> tuple[int, int]:
        """Numbers of queries and of keys."""

    @abstractmethod
    def incompatibility(self, choice: LayerChoice) -> str:
        """Return the rule that a choice breaks, or None, as the `check` of an operator does."""

    @abstractmethod
    def macs(self, choice: LayerChoice) -> int:
        """Return the multiply-accumulates per image of the converted layer."""

    @abstractmethod
    def params(self, choice: LayerChoice) -> int:
        """Return the parameters of the converted layer."""

    @abstractmethod
    def training_macs(self, choice: LayerChoice) -> int:
        """Return the multiply-accumulates per image while the branch is alive."""

    def cost(self, choice: LayerChoice) -> Cost:
        """Return the cost of the layer with a choice."""
        return Cost(
            macs=self.macs(choice),
            params=self.params(choice),
            training_macs=self.training_macs(choice),
        )

    @abstractmethod
    def converted(self, stock: nn.Module, choice: LayerChoice) -> nn.Module:
        """Return the module that replaces timm's, with all weights that it can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLayer(AttentionLayer):
    """An attention whose projections stay: only the core between them is chosen."""

    num_heads: int
    key_size: int
    value_size: int
    queries: TokenGrid
    keys: TokenGrid
    query_stride: int = 1
    key_stride: int = 1
    repeats: int = 1
    """How often the attention runs for one image, such as once per window."""
    kept_macs: int
    """Multiply-accumulates per image of the parts that stay: projections, pooling."""
    kept_params: int
    branch_macs: int
    """Multiply-accumulates per image of its softmax, which the training-only branch computes."""
    branch_keys: int
    """Tokens that its softmax is over: the mask's thresholds are multiples of their inverse."""
    build: Callable[[Any, "CoreLayer", LayerChoice], nn.Module]
    """Makes the converted module of timm's module."""
    sees_sides: bool = True

    @classmethod
    def of(  # noqa: PLR0913 - what kinds of attention differ in
        cls,
        call: Call,
        build: Callable[[Any, "CoreLayer", LayerChoice], nn.Module],
        *,
        kept_macs: int,
        sizes: tuple[int, int],
        queries: TokenGrid,
        keys: TokenGrid | None = None,
        biases: int = 0,
        sees_sides: bool = True,
        **placed: int,
    ) -> "CoreLayer":
        """Return the layer of a call; all its MACs beyond `kept_macs` are those of the softmax.

        Args:
            call: the attention.
            build: makes the converted module.
            kept_macs: of the parts that stay.
            sizes: channels of q and k, and of v, per head.
            queries: their grid.
            keys: their grid; by default the queries'.
            biases: parameters of the softmax, which are dropped with it.
            sees_sides: whether a call shows the sides of the map.
            placed: strides and repeats, if they are not 1.
        """
        keys = queries if keys is None else keys
        return cls(
            name=call.name,
            stock_macs=call.macs[""],
            stock_params=num_params(call.module),
            num_heads=call.module.num_heads,
            key_size=sizes[0],
            value_size=sizes[1],
            queries=queries,
            keys=keys,
            kept_macs=kept_macs,
            kept_params=num_params(call.module) - biases,
            branch_macs=call.macs[""] - kept_macs,
            branch_keys=keys.num_tokens,
            build=build,
            sees_sides=sees_sides,
            **placed,
        )

    @property
    def tokens(self) -> tuple[int, int]:
        """Numbers of queries and of keys, over all windows."""
        return self.repeats * self.queries.num_tokens, self.repeats * self.keys.num_tokens

    def shape(self, choice: LayerChoice) -> CoreShape:
        """Return the shape from which the operator is built and priced."""
        return CoreShape(
            choice=choice,
            num_heads=self.num_heads,
            key_size=self.key_size,
            value_size=self.value_size,
            queries=self.queries,
            keys=self.keys,
            query_stride=self.query_stride,
            key_stride=self.key_stride,
        )

    def incompatibility(self, choice: LayerChoice) -> str:
        """Return the error of an operator that has no core, or None."""
        if choice.operator == KEEP or OPERATORS[choice.operator].core:
            return ""
        fitting = [name for name, spec in OPERATORS.items() if spec.core or name == KEEP]
        return f"must be one of {', '.join(fitting)} here, where the projections are {self.name}'s"

    def macs(self, choice: LayerChoice) -> int:
        """Return the projections' and the core's, or timm's own."""
        core = OPERATORS[choice.operator].core
        if core is None:
            return self.stock_macs
        return self.kept_macs + self.repeats * core.macs(self.shape(choice))

    def params(self, choice: LayerChoice) -> int:
        """Return the projections' and the core's, or timm's own."""
        core = OPERATORS[choice.operator].core
        return (
            self.stock_params
            if core is None
            else self.kept_params + core.params(self.shape(choice))
        )

    def training_macs(self, choice: LayerChoice) -> int:
        """Return the layer's, and its branch's unless its mask is empty from the start."""
        if not has_branch(choice):
            return self.macs(choice)
        assert choice.mask is not None
        alive = choice.mask.threshold(0.0, self.branch_keys) < 1.0
        return self.macs(choice) + (self.branch_macs if alive else 0)

    def converted(self, stock: nn.Module, choice: LayerChoice) -> nn.Module:
        """Return a module that keeps timm's parts and their names, with another core."""
        return placed_like(stock, self.build(stock, self, choice))


def has_branch(choice: LayerChoice) -> bool:
    """Return whether the choice trains with a masked branch."""
    return choice.mask is not None and "mask" in OPERATORS[choice.operator].uses


def num_params(module: nn.Module, *names: str) -> int:
    """Return the number of parameters of a module, or of those named parts that it has."""
    parts = [getattr(module, name, None) for name in names] if names else [module]
    return sum(
        parameter.numel()
        for part in parts
        if isinstance(part, nn.Module)
        for parameter in part.parameters()
    )


def placed_like(stock: nn.Module, converted: nn.Module) -> nn.Module:
    """Return the converted module on the device, in the precision and in the mode of timm's."""
    parameter = next(stock.parameters())
    return converted.to(parameter.device, parameter.dtype).train(stock.training)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionAdapter:
    """A kind of attention: how its modules are recognised, and their layer."""

    summary: str
    """One line for the documentation's table."""
    knows: Callable[[nn.Module], bool]
    """Whether a module is of this kind."""
    layer: Callable[[Call], AttentionLayer | str]
    """The layer of a call, or the reason why it cannot be converted."""


ADAPTERS: Registry[AttentionAdapter] = Registry("attention", entry_points="castling.adapters")


def is_off(*parts: nn.Module | None) -> bool:
    """Return whether parts that only regularise or normalise are absent or do nothing."""
    return all(
        part is None
        or isinstance(part, nn.Identity)
        or (isinstance(part, nn.Dropout) and part.p == 0.0)
        for part in parts
    )


def input_tensor(call: Call) -> Tensor:
    """Return the tensor that the attention was called with."""
    tensor = call.inputs[0]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def has_mask(call: Call) -> bool:
    """Return whether the attention was called with a mask, under whatever name."""
    masks = [value for name, value in call.named.items() if "mask" in name or "causal" in name]
    return any(mask is not None and mask is not False for mask in masks)


def product_macs(num_heads: int, queries: TokenGrid, keys: TokenGrid, size: int) -> int:
    """Return the MACs of q k^T and its product with v, 2 h N M d for heads of size d."""
    return 2 * num_heads * queries.num_tokens * keys.num_tokens * size
