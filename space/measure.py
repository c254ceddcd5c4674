"""Measured cost: fvcore's count of MACs under one convention, parameters, and latency."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from castling.config import Architecture
from castling.errors import UncountedOperatorError
from castling.model.build import build
from castling.model.castle import castle
from space.handles import HANDLES


FREE_OPERATORS = frozenset(
    {
        "aten::__or__", "aten::abs", "aten::add", "aten::amax", "aten::asin", "aten::avg_pool2d",
        "aten::ceil", "aten::clamp_max", "aten::clamp_min", "aten::clone", "aten::col2im",
        "aten::cos", "aten::div", "aten::exp", "aten::expand_as", "aten::floor", "aten::gelu",
        "aten::hardswish", "aten::im2col", "aten::index_select", "aten::le",
        "aten::linalg_vector_norm", "aten::log", "aten::log_softmax", "aten::lt",
        "aten::max_pool2d", "aten::mean", "aten::meshgrid", "aten::mul", "aten::neg",
        "aten::ones_like", "aten::pad", "aten::pow", "aten::reciprocal", "aten::repeat",
        "aten::repeat_interleave", "aten::reshape_as", "aten::roll", "aten::rsqrt", "aten::rsub",
        "aten::sigmoid", "aten::sign", "aten::silu", "aten::sin", "aten::softmax", "aten::sqrt",
        "aten::square", "aten::std", "aten::sub", "aten::sum", "aten::tanh", "aten::threshold",
        "aten::unflatten", "aten::var", "aten::where",
    }
)  # fmt: skip
"""Operators without multiply-adds to count: elementwise, reductions, norms, data movement.

What works in place, like `aten::add_`, is as free as what does not.
"""


def measure_macs(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Return the MACs of one image, counted by fvcore on a trace of the model in eval mode.

    Linear layers, convolutions and products of matmul, einsum and attention count, one MAC per
    multiply-add; norms and elementwise operations do not.

    Args:
        model: any model of one batch of images.
        image_shape: (channel, height, width).

    Raises:
        UncountedOperatorError: when the graph holds an operator that is neither counted nor known
            to be free.
    """
    image = _zeros(model, 1, *image_shape)
    with _eval_mode(model), _quiet_tracing():
        from fvcore.nn import FlopCountAnalysis  # warns on import

        analysis = FlopCountAnalysis(model, image)
        analysis.unsupported_ops_warnings(enabled=False).uncalled_modules_warnings(enabled=False)
        for operator, handle in HANDLES.items():
            analysis.set_op_handle(operator, handle)
        total = analysis.total()
    names = set(analysis.unsupported_ops())
    uncounted = sorted(
        name for name in names if FREE_OPERATORS.isdisjoint({name, name.removesuffix("_")})
    )
    if uncounted:
        raise UncountedOperatorError(uncounted)
    return int(total)


def measure_params(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def measure_latency_ms(
    model: nn.Module, image_shape: Sequence[int], batch: int = 1, runs: int = 30
) -> float:
    """Return the median wall-clock milliseconds of a forward pass in eval mode.

    Args:
        model: any model of one batch of images.
        image_shape: (channel, height, width).
        batch: images per pass.
        runs: timed passes, after a tenth as many that warm up.
    """
    images = _zeros(model, batch, *image_shape)
    times = []
    with _eval_mode(model), torch.inference_mode():
        for run in range(-max(2, runs // 10), runs):
            started = time.perf_counter()
            model(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            if run >= 0:
                times.append((time.perf_counter() - started) * 1e3)
    return median(times)


def _zeros(model: nn.Module, *shape: int) -> torch.Tensor:
    """Return zeros where a model's parameters are and of their kind, if it has any."""
    parameter = next(model.parameters(), torch.zeros(()))
    return torch.zeros(*shape, device=parameter.device, dtype=parameter.dtype)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a model costs, counted and timed on the model itself."""

    macs: int
    """Multiply-accumulates per image of the castled model."""
    params: int
    """Parameters of the castled model."""
    training_macs: int
    """Multiply-accumulates per image of the forward pass with every branch alive."""
    latency_ms: float
    """Median milliseconds of the castled model on one image, on this machine."""


def measure_model(config: Architecture) -> Measurement:
    """Build a model and measure it, castled and with its branches."""
    training = build(config, seed=0)
    castled = castle(training)
    shape = (config.channels, *config.image_size)
    return Measurement(
        macs=measure_macs(castled, shape),
        params=measure_params(castled),
        training_macs=measure_macs(training, shape),
        latency_ms=measure_latency_ms(castled, shape),
    )
