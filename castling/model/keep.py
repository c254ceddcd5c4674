"""Weights kept: what one model has from another, under equal names and in equal shapes."""

from collections.abc import Mapping

from torch import Tensor, nn


def keep_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load the weights that a model has too, by name and shape, and return them.

    How far a mask schedule has come is no weight: it stays the model's.
    """
    own = model.state_dict()
    kept = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and own[name].shape == tensor.shape and not name.endswith(".progress")
    }
    model.load_state_dict(kept, strict=False)
    return kept
