"""Costs counted on a model itself, under one convention: fvcore's count, and torch's by module.

`measure_macs` is the reference: fvcore traces the built model, and an operation without a count is
an error. fvcore cannot trace on the meta device: while torch traces, sizes are tensors, which the
meta kernels refuse. A backbone is examined there, since some have more weights than a machine's
memory; `macs_by_module` counts it with torch's own counter, module by module. The tests of every
kind of attention compare the two.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from castling.config import Architecture
from castling.costs.handles import FREE_OPERATIONS, HANDLES, Handle
from castling.errors import CostMismatchError, OperatorError, UncountedOperatorError
from castling.operators import OPERATORS


def measure_macs(
    model: nn.Module, image_shape: Sequence[int], operators: Iterable[str] | None = None
) -> int:
    """Return the MACs of one image, counted by fvcore on a trace of the model in eval mode.

    Linear layers, convolutions and products of matmul, einsum and attention count, one MAC per
    multiply-add; norms and elementwise operations do not.

    Args:
        model: any model of one batch of images.
        image_shape: (channel, height, width).
        operators: those of castling's operators that the model holds, whose `free` and `handles`
            are used; None takes them from the model's config, if it has one.

    Raises:
        UncountedOperatorError: when the graph holds an operation that is neither counted nor
            listed as free.
        OperatorError: when two of the operators count one operation in different ways.
    """
    free, handles = _rules(_operators_of(model) if operators is None else operators)
    image = zeros_for(model, 1, *image_shape)
    with eval_mode(model), _quiet_tracing():
        from fvcore.nn import FlopCountAnalysis  # warns on import

        analysis = FlopCountAnalysis(model, image)
        analysis.unsupported_ops_warnings(enabled=False).uncalled_modules_warnings(enabled=False)
        for operation, handle in handles.items():
            analysis.set_op_handle(operation, handle)
        total = analysis.total()
    names = set(analysis.unsupported_ops())
    uncounted = sorted(name for name in names if free.isdisjoint({name, name.removesuffix("_")}))
    if uncounted:
        raise UncountedOperatorError(uncounted)
    return int(total)


def macs_by_module(model: nn.Module, image_shape: Sequence[int]) -> dict[str, int]:
    """Return the MACs of one image, counted by torch: of every module by its path.

    Args:
        model: in eval mode, perhaps on the meta device; its parameters want no gradient (the
            counter stumbles over latents that do).
        image_shape: (channel, height, width).

    Returns:
        The counts, that of the whole model under "".
    """
    root = type(model).__name__
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(zeros_for(model, 1, *image_shape))
    counts = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    return {"": counter.get_total_flops() // 2} | counts


def measure_params(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_params(model: nn.Module, closed_form: int, name: str) -> None:
    """Raise CostMismatchError unless a module, called `name`, has the parameters of its price."""
    measured = measure_params(model)
    if measured != closed_form:
        raise CostMismatchError(f"parameters of {name}", closed_form, measured)


def _operators_of(model: nn.Module) -> set[str]:
    config = getattr(model, "config", None)
    return {b.operator for b in config.blocks} if isinstance(config, Architecture) else set()


def _rules(operators: Iterable[str]) -> tuple[frozenset[str], Mapping[str, Handle]]:
    """Return the free operations and the handles of a model that holds some operators."""
    free, handles = FREE_OPERATIONS, dict(HANDLES)
    for name in sorted(operators):
        spec = OPERATORS[name]
        free = free | spec.free
        for operation, handle in spec.handles.items():
            if handles.setdefault(operation, handle) is not handle:
                reason = f"counts {operation} in another way than castling or another operator"
                raise OperatorError(name, reason, "leave that operation out of its handles")
    return free, handles


def zeros_for(model: nn.Module, *shape: int) -> torch.Tensor:
    """Return zeros where a model's parameters are and of their kind, if it has any."""
    parameter = next(model.parameters(), torch.zeros(()))
    return torch.zeros(*shape, device=parameter.device, dtype=parameter.dtype)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for the length of a with-block."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes.items():  # a part of the model may differ from the rest
            module.training = was_training


@contextmanager
def _quiet_tracing() -> Iterator[None]:
    """Silence exactly what tracing for a count warns about, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=FutureWarning)
        logger = logging.getLogger("fvcore.nn.jit_analysis")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
