"""Which implementation computes a layer here, and why: the one place that decides.

| what | path | taken where |
|---|---|---|
| layer | `c` | float32 on the CPU, head sizes in multiples of 4, with a C compiler |
| | `triton` | CUDA, float32, bfloat16 or float16, heads of up to 128 channels, with Triton |
| | `torch` | everywhere else; torch's operations are the definition |
| branch | `c` | as above, where the loss does not need the surviving mass |
| | `flex` | CUDA, no bias, 16 to 256 channels, more than 128 keys, torch from 2.9 |
| | `chunks` | no CPU, more than 128 keys |
| | `maps` | everywhere else; the definition |

Exporting, tracing, counting and transforms see torch's operations: `torch` and `maps`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from castling.kernels import arguments, flex, fused, masked_attention
from castling.kernels.compiler import SWITCH
from castling.kernels.flex_passes import NARROW


LayerPath = Literal["triton", "torch"]
BranchPath = Literal["c", "flex", "chunks", "maps"]


class Choice(NamedTuple):
    """A path, and why none of the quicker ones was taken."""

    path: str
    reason: str


@dataclass(slots=True)
class _Forced:
    layer: LayerPath | None = None
    branch: BranchPath | None = None
    rms: bool | None = None


_FORCED = _Forced()


@contextmanager
def forced(
    *,
    layer: LayerPath | None = None,
    branch: BranchPath | None = None,
    rms: bool | None = None,
) -> Iterator[None]:
    """Take these paths, whatever the tensors: for tests, and to count on tensors without values.

    Args:
        layer: the path of layers; None leaves it to `layer_choice`.
        branch: the path of branches; None leaves it to `branch_choice`.
        rms: whether rows are normalised by `F.rms_norm`; None leaves it to `takes_rms_norm`.
    """
    before = (_FORCED.layer, _FORCED.branch, _FORCED.rms)
    _FORCED.layer, _FORCED.branch, _FORCED.rms = layer, branch, rms
    try:
        yield
    finally:
        _FORCED.layer, _FORCED.branch, _FORCED.rms = before


def layer_choice(qkv: Tensor, weight: Tensor) -> Choice:
    """Return how a layer of linear-angular attention is computed where C does not serve it.

    Args:
        qkv: (batch, token, 3, head, size).
        weight: filters of the convolution (filter, 1, down, across).
    """
    if _FORCED.layer is not None:
        return Choice(_FORCED.layer, "forced")
    if qkv.device.type != "cuda":
        return Choice("torch", "Triton kernels are for CUDA, and the C kernel does not take this")
    why = _seen() or _switched_off() or fused.objection(qkv, weight)
    return Choice("torch", why) if why else Choice("triton", "")


def branch_choice(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, needs_mass: bool
) -> Choice:
    """Return how the masked branch is computed.

    Args:
        q: (batch, head, query, size).
        k: (batch, head, key, size).
        v: (batch, head, key, value size).
        bias: added to the logits, or None.
        needs_mass: whether the loss needs the attention mass that survives.
    """
    if _FORCED.branch is not None:
        return Choice(_FORCED.branch, "forced")
    if bias is None and not needs_mass and masked_attention.serves(q, k, v):
        return Choice("c", "")
    if q.device.type == "cpu":
        return Choice("maps", "on the CPU only the C kernel needs no maps")
    if q.device.type == "meta" or (seen := _seen()):
        return Choice("maps", "meta tensors have no values" if q.is_meta else seen)
    if k.shape[2] <= flex.CHUNK:
        return Choice("maps", "maps of so few keys are small")
    why = _flex_objection(q, v, bias)
    return Choice("chunks", why) if why else Choice("flex", "")


def takes_rms_norm(x: Tensor) -> bool:
    """Return whether rows are normalised by torch's fused `rms_norm`: eager on CUDA."""
    if _FORCED.rms is not None:
        return _FORCED.rms
    there = hasattr(torch.ops.aten, "_fused_rms_norm")
    return x.is_cuda and there and not torch.compiler.is_compiling() and not _seen()


def _seen() -> str:
    """Return why torch's operations must be seen, or nothing."""
    if torch.compiler.is_compiling():
        return "the model is exported" if torch.compiler.is_exporting() else ""
    if torch.jit.is_tracing():
        return "the model is traced"
    return "operations are counted or transformed" if arguments.is_watched() else ""


def _switched_off() -> str:
    return "CASTLING_NATIVE is 0" if os.environ.get(SWITCH) == "0" else ""


def _flex_objection(q: Tensor, v: Tensor, bias: Tensor | None) -> str:
    if q.device.type != "cuda":
        return "FlexAttention is used on CUDA only"
    if bias is not None:
        return "a bias of the logits is a map itself"
    if q.dtype not in fused.TYPES:
        return "FlexAttention takes float32, bfloat16 and float16"
    if not all(NARROW <= size <= 256 for size in (q.shape[-1], v.shape[-1])):
        return "FlexAttention takes 16 to 256 channels per head"
    if not fused.has_triton():
        return "Triton is not installed"
    return flex.objection()
