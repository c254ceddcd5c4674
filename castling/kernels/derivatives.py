"""Gradients of kernels: a second differentiation is refused with the remedy."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from castling.errors import ConfigError


Gradients = tuple[Tensor | None, ...]
Backward = Callable[..., Gradients]


def not_twice() -> ConfigError:
    """Return the error of differentiating a kernel's gradient once more."""
    return ConfigError(
        "CASTLING_NATIVE",
        "must be 0 in the environment of a process that differentiates gradients again, as the C "
        "kernels have a first derivative only",
        fix="or use torch.func, which sees torch's operations",
    )


def not_forward() -> ConfigError:
    """Return the error of differentiating a kernel in forward mode."""
    return ConfigError(
        "CASTLING_NATIVE",
        "must be 0 in the environment of a process that calls the operator of the C kernels in "
        "forward mode, as they have a backward pass only",
        fix="or call the model, which then takes torch's operations",
    )


def once(backward: Backward) -> Backward:
    """Return a backward pass whose gradients refuse to be differentiated, with the remedy.

    As torch's `once_differentiable`, whose error names none.
    """

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Tensor | None) -> Gradients:
        with torch.no_grad():
            made = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return made
        tensors = [each for each in made if each is not None]
        origin = [x for x in (*gradients, *ctx.saved_tensors) if x is not None]
        tied = iter(_Last.apply(len(tensors), *tensors, *origin))
        return tuple(None if each is None else next(tied) for each in made)

    return wrapped


class _Last(torch.autograd.Function):
    """The first few tensors, as made of the others."""

    @staticmethod
    def forward(_: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tensors[:count]

    @staticmethod
    def backward(_: Any, *__: Tensor) -> None:
        raise not_twice()
