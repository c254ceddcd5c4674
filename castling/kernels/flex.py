"""Masked softmax attention without attention maps on GPUs: FlexAttention, or chunks of queries.

With scores s = q k^T / sqrt(size), lse = logsumexp(s) and limit = lse + log(threshold), held
constant:

    S v = softmax(s where s > limit, else -inf) v * exp(l2 - lse), l2 = logsumexp of the same

since A > threshold is s > limit. exp(l2 - lse) is the attention mass of a query that survives;
where nothing survives l2 is -inf and both are 0. Entries within rounding of the threshold may
fall on the other side than in the formula, which compares A itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from castling.kernels.flex_passes import passes


CHUNK = 128
"""Queries of a chunk, and the keys of a tile of FlexAttention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """The result of masked attention."""

    mixed: Float[Tensor, "batch head query value"]
    mass: Float[Tensor, "batch head query"]
    """Attention mass of each query that survives; differentiable."""
    survivors: Float[Tensor, "batch head query"] | None
    """How many keys of each query survive, where this was asked for."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def objection() -> str:
    """Return why FlexAttention cannot be used with this torch; nothing if it can."""
    try:
        module = import_module("torch.nn.attention.flex_attention")
    except ImportError:
        module = None
    there = hasattr(module, "AuxRequest")
    return "" if there else "this torch has no FlexAttention that returns sums; 2.9 has"


def attend(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    threshold: float | Tensor,
    *,
    count: bool,
) -> Masked:
    """Return masked attention by FlexAttention; memory grows with queries plus keys.

    The backward pass needs q, k and v only: it runs the forward pass again.

    Args:
        q: queries.
        k: keys.
        v: values.
        threshold: of attention, 0 to 1; a tensor of one number while a model is compiled.
        count: whether to count survivors, in one more pass.
    """
    if isinstance(threshold, Tensor):
        limit = threshold.to(q.device, torch.float32)
    else:
        limit = torch.full((), threshold, device=q.device)
    run = passes if torch.compiler.is_compiling() else compiled_passes()
    made = again(run, q, k, v, limit.log(), count)
    return Masked(mixed=made[0], mass=made[1], survivors=made[2] if count else None)


def chunked(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    bias: Float[Tensor, "... query key"] | None,
    threshold: float | Tensor,
) -> Masked:
    """Return masked attention by the formula, `CHUNK` queries at a time, each under checkpoint.

    The backward pass needs q, k, v and bias only. Arguments as `attend`.
    """
    made = []
    for start in range(0, q.shape[2], CHUNK):
        rows = q[:, :, start : start + CHUNK]
        part = None if bias is None else bias[..., start : start + CHUNK, :]
        made.append(again(by_maps, rows, k, v, part, threshold))
    mixed, mass, survivors = (torch.cat(parts, dim=2) for parts in zip(*made, strict=True))
    return Masked(mixed=mixed, mass=mass, survivors=survivors)


def by_maps(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
    bias: Float[Tensor, "... query key"] | None,
    threshold: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return S v, the surviving mass and the number of survivors of each query, as defined."""
    surviving = surviving_attention(q, k, bias, threshold)
    return surviving @ v, surviving.sum(-1), (surviving > 0.0).sum(-1, dtype=torch.float32)


def surviving_attention(
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    bias: Float[Tensor, "... query key"] | None,
    threshold: float | Tensor,
) -> Float[Tensor, "batch head query key"]:
    """Return S = A * (A > threshold), A = softmax(q k^T / sqrt(size) + bias)."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    attention = (logits if bias is None else logits + bias).softmax(dim=-1)
    if isinstance(threshold, Tensor):
        return torch.where(attention > threshold, attention, 0.0)
    return F.threshold(attention, threshold, 0.0)


def again(run: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function that the backward pass runs again, so that nothing within is kept."""
    if not torch.is_grad_enabled():
        return run(*arguments)
    return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)


@cache
def compiled_passes() -> Callable[..., Any]:
    """Return the passes compiled: uncompiled, FlexAttention writes whole attention maps.

    Past torch's limit of recompilations this raises, instead of writing those.
    """
    return torch.compile(passes, fullgraph=True)
