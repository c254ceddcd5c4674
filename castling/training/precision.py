"""The arithmetic of a training and of its evaluations."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from castling.errors import ConfigError


HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions by autocast."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError when a device cannot compute in a precision."""
    if precision == "tf32" and device.type != "cuda":
        rule = f"must be float32, bfloat16, float16 or auto on the device {device.type}"
        fix = "TF32 exists on CUDA GPUs only: `auto` takes it there, and float32 elsewhere"
        raise ConfigError("train.precision", rule, precision, fix)


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in a precision of `train.precision`, forward and backward; then as before.

    On a device without TF32, `tf32` is float32, so that a model of a GPU is evaluated anywhere.
    """
    is_tf32 = precision in ("tf32", "auto") and device.type == "cuda"
    if not is_tf32:
        yield
        return
    product, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(product)
        torch.backends.cudnn.allow_tf32 = convolution


@contextmanager
def autocast(precision: str, device: torch.device) -> Iterator[None]:
    """Compute forward passes in a half precision where `train.precision` names one."""
    if precision not in HALVES:
        yield
        return
    with torch.autocast(device.type, dtype=HALVES[precision]):
        yield


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """Return what scales the loss for float16, whose small gradients would be zero."""
    return torch.amp.GradScaler(device.type) if precision == "float16" else None
