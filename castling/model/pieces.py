"""Takes models apart for timing: pieces whose times add up, each with a unique name."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from castling.config import (
    OPERATOR_FIELDS,
    BackboneConfig,
    BlockConfig,
    LayerChoice,
    ModelConfig,
    StockBackbone,
)
from castling.model.adapters.sites import sites_of
from castling.model.castle import castle
from castling.model.convert import build_backbone
from castling.model.vit import Block, CastlingViT
from castling.operators.spec import LayerShape, layer_shapes


OPERATOR_PART = OPERATOR_FIELDS | {"operator", "options"}
MLP_PART = frozenset({"mlp", "mlp_ratio"})
UNTIMED = frozenset({"drop_path"})
"""Fields of a block by the only part that they change; a rate of training costs no time."""
PERIOD = 2
"""After how many layers an operator repeats that depends on its place: Swin shifts every other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A module and its arguments for one image."""

    name: str | None
    """Name of its time in the table; None if it counts only towards the rest."""
    module: nn.Module
    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Pieces that are timed together, and a whole from which their times are subtracted."""

    pieces: Sequence[Piece]
    whole: Piece | None = None
    """Its name has the time of the whole without the pieces; None if there is no whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a castled model: its name, and how it is made on a device to be timed."""

    name: str
    take_apart: Callable[[torch.device], Pieces]
    """Returns the piece of this name, and perhaps others."""


def vit_parts(model: ModelConfig) -> Iterator[Part]:
    """Yield the parts of a CastlingViT: the stem, and of each block operator, MLP and the rest.

    Args:
        model: castled and canonical.
    """
    alone = model.replace(blocks=model.blocks[:1])
    stem = _named("stem", alone.replace(blocks=(BlockConfig(mask=None),)).to_data())
    yield Part(name=stem, take_apart=partial(_vit_stem, stem, alone))
    for shape in layer_shapes(model):
        for path, name in _block_names(shape).items():
            yield Part(name=name, take_apart=partial(_of_block, name, path, shape))


def _block_names(shape: LayerShape) -> dict[str, str]:
    """Return the names of a block's operator, MLP and rest, by their paths in the block.

    A name holds every field that changes the part. Where it is not declared which part a field
    changes, every name has it, unless it stands at its default.
    """
    block, fields = shape.block.to_data(), type(shape.block).model_fields
    others = {
        name: block[name]
        for name in block.keys() - OPERATOR_PART - MLP_PART - UNTIMED
        if getattr(shape.block, name) != fields[name].get_default(call_default_factory=True)
    }
    place = {"width": shape.embed_width, "grid": repr(shape.grid), "bias": shape.qkv_bias}
    chosen = {name: block[name] for name in OPERATOR_PART}
    mlp = {"mlp": block["mlp"], "ratio": block["mlp_ratio"]}
    return {
        "attn": _named("operator", {**place, "turn": shape.index % PERIOD, **chosen, **others}),
        "mlp": _named("mlp", {**place, **mlp, **others}),
        "": _named("block", {**place, **others}),
    }


def backbone_parts(model: BackboneConfig) -> Iterator[Part]:
    """Yield the parts of a model of timm: its attention layers, and all others as one.

    Args:
        model: castled and canonical.
    """
    stock = StockBackbone(**{name: getattr(model, name) for name in StockBackbone.model_fields})
    data, default = stock.to_data(), LayerChoice(operator="softmax", mask=None)
    yield Part(
        name=_named("stem", data), take_apart=partial(_of_backbone, stock, default, default)
    )
    for index, choice in enumerate(model.blocks):
        name = _layer_name(data, index, choice)
        yield Part(name=name, take_apart=partial(_of_backbone, stock, choice, default))


def _named(kind: str, data: Mapping[str, Any]) -> str:
    return f"{kind} {json.dumps(data, sort_keys=True)}"


def _layer_name(backbone: Mapping[str, Any], index: int, choice: LayerChoice) -> str:
    return _named("layer", {**backbone, "layer": index, "choice": choice.to_data()})


def _vit_stem(name: str, model: ModelConfig, device: torch.device) -> Pieces:
    built = castle(CastlingViT(model).to(device))
    built.blocks = nn.ModuleList()
    return Pieces(pieces=[Piece(name=name, module=built, arguments=(_image(model, device),))])


def _of_block(name: str, path: str, shape: LayerShape, device: torch.device) -> Pieces:
    """Return a submodule of a block, or, of no path, the block without operator and MLP."""
    plain = replace(shape, block=shape.block.replace(mask=None, drop_path=0.0))
    block = castle(Block(plain).to(device))
    if not path:
        block.attn, block.mlp = nn.Identity(), nn.Identity()
    tokens = torch.zeros(1, shape.grid.num_tokens, shape.embed_width, device=device)
    piece = Piece(name=name, module=block.get_submodule(path), arguments=(tokens,))
    return Pieces(pieces=[piece])


def _of_backbone(
    stock: StockBackbone, choice: LayerChoice, default: LayerChoice, device: torch.device
) -> Pieces:
    """Return the layers with a choice, where possible, and the model that contains them."""
    layers, data = sites_of(stock).layers, stock.to_data()
    takes = [not layer.incompatibility(choice) for layer in layers]
    blocks = tuple(choice if taken else default for taken in takes)
    config = BackboneConfig(**dict(stock), blocks=blocks)
    model, image = castle(build_backbone(config).to(device)), _image(config, device)
    calls = _calls(model, [layer.name for layer in layers], image)
    pieces = [
        Piece(
            name=_layer_name(data, index, choice) if takes[index] else None,
            module=model.get_submodule(layer.name),
            arguments=calls[layer.name][0],
            named=calls[layer.name][1],
        )
        for index, layer in enumerate(layers)
    ]
    whole = Piece(name=_named("stem", data), module=model, arguments=(image,))
    return Pieces(pieces=pieces, whole=whole)


def _calls(
    model: nn.Module, names: list[str], image: torch.Tensor
) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return the arguments of each module in a forward pass."""
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls[name] = (arguments, named)

        return hook

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(keep(name), with_kwargs=True)
        for name in names
    ]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    return calls


def _image(model: ModelConfig | StockBackbone, device: torch.device) -> torch.Tensor:
    return torch.zeros(1, model.channels, *model.image_size, device=device)
