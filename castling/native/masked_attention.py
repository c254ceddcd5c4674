"""Masked softmax attention as one kernel: no map of attention is kept, empty rows are skipped."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from castling.native import arguments
from castling.native.compiler import load_library


_SOURCE = Path(__file__).with_name("masked_attention.c")


def serves(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
) -> bool:
    """Return whether the kernel takes these tensors here."""
    return arguments.fit(q, k, v) and kernel(q.shape[-1], v.shape[-1]) is not None


@cache
def kernel(key_size: int, value_size: int) -> ctypes.CDLL | None:
    """Return the library for heads of these sizes, or None where there is none."""
    if not arguments.sizes_fit(key_size, value_size):
        return None
    return load_library(_SOURCE, key=key_size, value=value_size)


def masked_attention(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    threshold: float,
) -> tuple[Float[Tensor, "batch head query value"], Float[Tensor, "batch head query"]]:
    """Return S v with S = A * (A > threshold), A = softmax(q k^T / sqrt(size)), and survivors.

    Values' memory is (batch, query, head, value). Kept for the backward pass beside q, k, v and
    the result are three numbers per query; it computes A once more, of queries with survivors.
    """
    out, kept = _MaskedAttention.apply(q, k, v, threshold)
    return out, survivors(kept)


def survivors(kept: Float[Tensor, "batch head query 3"]) -> Float[Tensor, "batch head query"]:
    """Return how many keys of each query survive, of what `forward` has kept."""
    return kept[..., 2]


class _MaskedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, threshold: float
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (arguments.in_rows(x) for x in (q, k, v))
        out, kept = forward(q, k, v, threshold)
        ctx.save_for_backward(q, k, v, out, kept)
        ctx.threshold = threshold
        ctx.mark_non_differentiable(kept)
        return out, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, kept = ctx.saved_tensors
        gradients = [torch.zeros_like(x) for x in (q, k, v)]
        add_gradients([q, k, v, out, arguments.in_rows(gradient)], kept, ctx.threshold, gradients)
        return *gradients, None


def forward(q: Tensor, k: Tensor, v: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return S v, and what `add_gradients` wants to know of each query."""
    (batch, heads, queries, key_size), (keys, size) = q.shape, v.shape[2:]
    out = v.new_empty(batch, queries, heads, size).transpose(1, 2)
    kept = q.new_empty(batch, heads, queries, 3)
    threads = arguments.num_threads(q, v)
    found = kernel(key_size, size)
    assert found is not None  # `serves`
    logits = q.new_empty(threads, keys, found.queries_at_a_time())
    found.forward(
        arguments.integers(batch, heads, queries, keys),
        arguments.tensors([q, k, v, out]),
        ctypes.c_float(threshold),
        arguments.pointer(kept),
        arguments.pointer(logits),
        threads,
    )
    return out, kept


def add_gradients(
    given: list[Tensor], kept: Tensor, threshold: float, gradients: list[Tensor]
) -> None:
    """Add to the gradients of q, k and v, given q, k, v, S v and the gradient of that."""
    q, k, v = given[:3]
    found = kernel(q.shape[-1], v.shape[-1])
    assert found is not None  # `serves`
    found.backward(
        arguments.integers(*q.shape[:3], k.shape[2]),
        arguments.tensors([*given, *gradients]),
        ctypes.c_float(threshold),
        arguments.pointer(kept),
        arguments.num_threads(q, v),
    )
