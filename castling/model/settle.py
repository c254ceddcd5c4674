"""Settles gated layers: each becomes the operator or the narrower MLP that its gates choose."""

from collections.abc import Iterator

from torch import nn

from castling.config import Architecture
from castling.model.build import build, config_of
from castling.operators.modules.gates import Gated, gated


def settle(model: nn.Module) -> nn.Module:
    """Return the model without gates: the same logits in eval mode, at the cost that was chosen.

    Weights are copied, training-only branches stay. A model without gates is returned as it is.
    """
    if not gated(model):
        return model
    parameter = next(model.parameters())
    settled = build(settled_config(config_of(model), model), seed=0)
    settled.to(parameter.device, parameter.dtype)
    weights = model.state_dict()
    for layer, name, part in _gated_parts(model):
        prefix = f"blocks.{layer}.{name}."
        weights = {key: value for key, value in weights.items() if not key.startswith(prefix)}
        weights |= {f"{prefix}{key}": value for key, value in part.settled()[1].items()}
    settled.load_state_dict(weights)
    return settled.train(model.training)


def settled_config(config: Architecture, model: nn.Module) -> Architecture:
    """Return a config with the gated parts of its blocks as a model's gates decide."""
    blocks = list(config.blocks)
    for layer, _, part in _gated_parts(model):
        blocks[layer] = blocks[layer].replace(**part.settled()[0])
    return config.replace(blocks=tuple(blocks))


def _gated_parts(model: nn.Module) -> Iterator[tuple[int, str, Gated]]:
    """Yield layer, name in the block and module of everything with gates."""
    for path, part in model.named_modules():
        if isinstance(part, Gated):  # a block's: no backbone takes a gated operator
            _, layer, name = path.split(".")
            yield int(layer), name, part
