"""The switch: from the training model to the inference model, without the auxiliary branch."""

import copy
from typing import TypeVar, cast

from torch import nn

from castling.model.wrapped import unwrapped
from castling.operators.modules.auxiliary import branches
from castling.operators.modules.training_only import BranchHolder, TrainingOnly


M = TypeVar("M", bound=nn.Module)


def castle(model: M) -> M:
    """Return the inference model of a training model: in eval mode, no branch left.

    The model is copied, out of torch's wrappers, and what works in training only is removed:
    parameters and graph hold no trace of it. Once the training model's masks are empty, its
    logits in eval mode are the castled model's, bit for bit.
    """
    for branch in branches(model):
        branch.surviving_mass = None  # of the last step's graph, which cannot be copied
    # Of a wrapper the model in it is returned, of a type that no annotation can name.
    castled = cast(M, copy.deepcopy(unwrapped(model)))
    for module in [*castled.modules()]:
        for name, part in [*module.named_children()]:
            if isinstance(part, TrainingOnly):
                delattr(module, name)
        if isinstance(module, BranchHolder):
            module.drop_training_only()
    config = getattr(castled, "config", None)
    if config is not None:
        castled.config = config.castled()
    return castled.eval()


def is_castled(model: nn.Module) -> bool:
    """Return whether the model has no training-only branch."""
    return not branches(model)


def set_progress(model: nn.Module, progress: float) -> None:
    """Move every layer's mask schedule to a fraction of training, 0 to 1."""
    for branch in branches(model):
        branch.set_progress(progress)
