"""Measured cost: fvcore's count of MACs under one convention, parameters, and latency."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from castling.config import Architecture
from castling.costs.cost import Cost
from castling.costs.count import eval_mode, measure_macs, measure_params, zeros_for
from castling.model.build import build
from castling.model.castle import castle


__all__ = [
    "Measurement",
    "measure_cost",
    "measure_latency_ms",
    "measure_macs",
    "measure_model",
    "measure_params",
]


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
    images = zeros_for(model, batch, *image_shape)
    times = []
    with eval_mode(model), torch.inference_mode():
        for run in range(-max(2, runs // 10), runs):
            started = time.perf_counter()
            model(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            if run >= 0:
                times.append((time.perf_counter() - started) * 1e3)
    return median(times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The cost of a model, counted and timed on the model itself."""

    macs: int
    """Multiply-accumulates per image of the castled model."""
    params: int
    """Parameters of the castled model."""
    training_macs: int
    """Multiply-accumulates per image of the forward pass with every branch alive."""
    latency_ms: float
    """Median milliseconds of the castled model on one image, on this machine."""


def measure_cost(config: Architecture) -> Cost:
    """Build a model and count it, castled and with its branches.

    Raises:
        UncountedOperatorError: when it holds an operation that is neither counted nor free.
    """
    training = build(config, seed=0)
    return _counted(training, castle(training), (config.channels, *config.image_size))


def measure_model(config: Architecture) -> Measurement:
    """Build a model and measure it, castled and with its branches."""
    training = build(config, seed=0)
    castled, shape = castle(training), (config.channels, *config.image_size)
    spent = _counted(training, castled, shape)
    return Measurement(
        macs=spent.macs,
        params=spent.params,
        training_macs=spent.training_macs,
        latency_ms=measure_latency_ms(castled, shape),
    )


def _counted(training: nn.Module, castled: nn.Module, image_shape: Sequence[int]) -> Cost:
    return Cost(
        macs=measure_macs(castled, image_shape),
        params=measure_params(castled),
        training_macs=measure_macs(training, image_shape),
    )
