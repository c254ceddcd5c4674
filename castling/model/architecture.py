"""The two kinds of model under one protocol: how each is checked, priced, built and timed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from castling.blocks.parts import block_cost, embedding_cost, head_cost
from castling.config import Architecture as ArchitectureConfig, BackboneConfig, ModelConfig
from castling.config.limits import MOST_PARAMS
from castling.costs.cost import Cost
from castling.errors import ConfigError
from castling.model.adapters.sites import sites_of
from castling.model.convert import build_backbone, stock_config
from castling.model.pieces import Part, backbone_parts, vit_parts
from castling.model.vit import CastlingViT
from castling.operators import OPERATORS
from castling.operators.spec import layer_shapes


class Architecture(ABC):
    """The protocol of a model's config, whatever the kind of model."""

    @abstractmethod
    def check(self) -> None:
        """Raise ConfigError unless every layer can take its choice and the model can be built.

        `castling.model.check` has checked that the operators exist and their options fit.
        """

    @abstractmethod
    def build(self) -> nn.Module:
        """Return the training model, in training mode."""

    @abstractmethod
    def attention_paths(self) -> list[str]:
        """Return the paths of the attention layers in the model, first to last."""

    @abstractmethod
    def fixed_cost(self) -> Cost:
        """Return the cost of the parts that no choice changes."""

    @abstractmethod
    def layer_costs(self) -> Sequence[Cost]:
        """Return the cost of each layer with its choice, first to last."""

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """Yield the parts whose latencies add up to the model's; the config is canonical."""

    @abstractmethod
    def stock(self) -> BackboneConfig | None:
        """Return the config that fits timm's weights; None if timm has no weights."""

    def cost(self) -> Cost:
        """Return the cost of the model, the sum over its layers and all the rest."""
        return sum(self.layer_costs(), self.fixed_cost())


@dataclass(frozen=True, slots=True)
class VitArchitecture(Architecture):
    """A CastlingViT: every block is a choice."""

    config: ModelConfig

    def check(self) -> None:
        """Raise ConfigError unless operators serve their layers and the model has a usual size."""
        shapes, width = layer_shapes(self.config), self.config.embed_width
        for layer, shape in enumerate(shapes):
            rule = OPERATORS[shape.block.operator].check(shape)
            if rule:
                raise ConfigError(f"blocks.{layer}.operator", rule, shape.block.operator)
        inputs = self.config.channels * self.config.patch_size**2 + shapes[0].grid.num_tokens
        weights = (inputs + self.config.num_classes) * width  # without biases and norms
        for shape in shapes:
            hidden = int(width * shape.block.mlp_ratio)
            weights += OPERATORS[shape.block.operator].params(shape) + 2 * width * hidden
        if weights > MOST_PARAMS:
            most = f"{MOST_PARAMS:,}"
            rule = f"must have blocks, classes and widths of at most {most} weights in all"
            raise ConfigError("embed_width", rule, weights)

    def build(self) -> nn.Module:
        """Return the training model, in training mode."""
        return CastlingViT(self.config)

    def attention_paths(self) -> list[str]:
        """Return the path of every block's operator."""
        return [f"blocks.{index}.attn" for index in range(len(self.config.blocks))]

    def fixed_cost(self) -> Cost:
        """Return the cost of embedding and head."""
        return embedding_cost(self.config) + head_cost(self.config)

    def layer_costs(self) -> Sequence[Cost]:
        """Return the cost of every block."""
        return [block_cost(shape) for shape in layer_shapes(self.config)]

    def parts(self) -> Iterator[Part]:
        """Yield the stem, and each block's operator, MLP and rest."""
        return vit_parts(self.config)

    def stock(self) -> None:
        """Return None: timm has no weights of it."""


@dataclass(frozen=True, slots=True)
class BackboneArchitecture(Architecture):
    """A model of timm: the operator of every attention layer is a choice."""

    config: BackboneConfig

    def check(self) -> None:
        """Raise ConfigError unless timm has the model and its layers can take their choices."""
        sites_of(self.config).check(self.config.blocks)

    def build(self) -> nn.Module:
        """Return the training model, in training mode."""
        return build_backbone(self.config)

    def attention_paths(self) -> list[str]:
        """Return the paths of the attention layers that can be converted."""
        return [layer.name for layer in sites_of(self.config).layers]

    def fixed_cost(self) -> Cost:
        """Return the cost outside the attention layers, counted once per backbone."""
        sites = sites_of(self.config)
        macs = sites.fixed_macs
        return Cost(macs=macs, params=sites.fixed_params, training_macs=macs)

    def layer_costs(self) -> Sequence[Cost]:
        """Return the closed form of every attention layer."""
        layers = sites_of(self.config).layers
        return [
            layer.cost(choice) for layer, choice in zip(layers, self.config.blocks, strict=True)
        ]

    def parts(self) -> Iterator[Part]:
        """Yield the attention layers and all the rest."""
        return backbone_parts(self.config)

    def stock(self) -> BackboneConfig:
        """Return the config with softmax in every layer."""
        return stock_config(self.config)


_KINDS: dict[type[ArchitectureConfig], Callable[[Any], Architecture]] = {
    ModelConfig: VitArchitecture,
    BackboneConfig: BackboneArchitecture,
}


def architecture_of(config: ArchitectureConfig) -> Architecture:
    """Return the architecture that a config is of."""
    kind = next(kind for kind in type(config).__mro__ if kind in _KINDS)
    return _KINDS[kind](config)
