"""Copies weights of one model into another, where names and shapes are equal."""

from collections.abc import Mapping

from torch import Tensor, nn


def is_progress(name: str) -> bool:
    """Return whether a tensor of a state is the progress of a mask schedule, not a weight."""
    return name.endswith(".progress")


def strange_progress(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a schedule's progress that is no fraction of training, 0 to 1, if any."""
    return next(
        (
            name
            for name, tensor in tensors.items()
            if is_progress(name) and not (tensor.shape == () and 0.0 <= tensor.item() <= 1.0)
        ),
        None,
    )


def keep_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load the weights that a model has too, by name and shape, and return them.

    The progress of mask schedules is no weight and is not copied.
    """
    current = model.state_dict()
    shared = {
        name: tensor
        for name, tensor in weights.items()
        if name in current and current[name].shape == tensor.shape and not is_progress(name)
    }
    model.load_state_dict(shared, strict=False)
    return shared
