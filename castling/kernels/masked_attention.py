"""Masked softmax attention as one kernel: it stores no attention map and skips empty rows."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from castling.kernels import arguments, derivatives
from castling.kernels.compiler import load_library


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

    Values' memory is (batch, query, head, value). The backward pass needs q, k, v and three
    numbers per query; it computes A again for queries with survivors.
    """
    out, kept = _MaskedAttention.apply(q, k, v, threshold)
    return out, survivors(kept)


def survivors(kept: Float[Tensor, "batch head query 3"]) -> Float[Tensor, "batch head query"]:
    """Return how many keys of each query survive, from the intermediates of `forward`."""
    return kept[..., 2]


class _MaskedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, threshold: float
    ) -> tuple[Tensor, Tensor]:
        out, kept = forward(q, k, v, threshold)
        ctx.save_for_backward(q, k, v, kept)
        ctx.threshold = threshold
        ctx.mark_non_differentiable(kept)
        return out, kept

    @staticmethod
    @derivatives.once
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, kept = ctx.saved_tensors
        gradients = [arguments.empty_like(x).zero_() for x in (q, k, v)]
        add_gradients([q, k, v, gradient], kept, ctx.threshold, gradients)
        return *gradients, None


def forward(q: Tensor, k: Tensor, v: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return S v, and the intermediates for `add_gradients`, three numbers per query.

    Raises:
        ConfigError: when a tensor is not of float32 on the CPU or sizes do not fit one another, or
            the threshold is below zero.
    """
    q, k, v = _checked(q, k, v)
    arguments.check_threshold(threshold)
    (batch, heads, queries, key_size), (keys, size) = q.shape, v.shape[2:]
    found = arguments.compiled(kernel(key_size, size), key_size, size)
    out = v.new_empty(batch, queries, heads, size).transpose(1, 2)
    kept = q.new_empty(batch, heads, queries, 3)
    threads = arguments.num_threads(q, v)
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
    """Add to the gradients of q, k and v, from q, k, v and the gradient of S v.

    Raises:
        ConfigError: as `forward`; and when a gradient to add to is not in rows.
    """
    q, k, v = _checked(*given[:3])
    arguments.check_threshold(threshold)
    (batch, heads, queries, key_size), (keys, size) = q.shape, v.shape[2:]
    found = arguments.compiled(kernel(key_size, size), key_size, size)
    gradient = arguments.expected("gradient", given[3], batch, heads, queries, size)
    kept = arguments.expected("kept", kept, batch, heads, queries, 3).contiguous()
    for name, x, made in zip("qkv", (q, k, v), gradients, strict=True):
        arguments.check_written(f"gradient of {name}", made, *x.shape)
    threads = arguments.num_threads(q, v)
    room = q.new_empty(threads, 2, keys, found.queries_at_a_time())
    found.backward(
        arguments.integers(batch, heads, queries, keys),
        arguments.tensors([q, k, v, gradient, *gradients]),
        ctypes.c_float(threshold),
        arguments.pointer(kept),
        arguments.pointer(room),
        threads,
    )


def _checked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v in rows, of sizes that fit one another; ConfigError if they do not."""
    q = arguments.expected("q", q, None, None, None, None)
    batch, heads, _, key_size = q.shape
    k = arguments.expected("k", k, batch, heads, None, key_size)
    return q, k, arguments.expected("v", v, batch, heads, k.shape[2], None)
