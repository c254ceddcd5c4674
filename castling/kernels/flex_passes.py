"""The passes of FlexAttention for masked softmax attention, as torch.compile traces them.

They are a module of their own without annotations of shapes: checks of shapes at run time wrap
nested functions too, which cannot be traced.
"""

import math
from typing import Any

import torch
from torch import Tensor


NARROW = 16
"""Channels of the values, where their mix is not wanted: the fewest that FlexAttention takes."""


def passes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_threshold: Tensor,
    count: bool,  # noqa: FBT001 - torch.compile guards on it
) -> tuple[Tensor, Tensor, Tensor]:
    """Return S v, the surviving mass and the number of survivors (or zeros) of each query.

    To be compiled; shapes as of `attend`.
    """
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    aux: Any = AuxRequest(lse=True)
    narrow = v[..., :NARROW].detach()
    _, whole = flex_attention(q, k, narrow, return_aux=aux)
    limit = (whole.lse + log_threshold).detach()

    def surviving(score: Tensor, b: Tensor, h: Tensor, m: Tensor, _: Tensor) -> Tensor:
        return torch.where(score > limit[b, h, m], score, -math.inf)

    def ones(score: Tensor, b: Tensor, h: Tensor, m: Tensor, _: Tensor) -> Tensor:
        return torch.where(score > limit[b, h, m], torch.zeros_like(score), -math.inf)

    mixed, kept = flex_attention(q, k, v, score_mod=surviving, return_aux=aux)
    some = kept.lse > -math.inf
    # Guarded before: the gradient of exp(-inf - lse) times 0 would be NaN.
    mass = torch.where(some, (torch.where(some, kept.lse, whole.lse) - whole.lse).exp(), 0.0)
    mixed = mixed * mass.unsqueeze(-1).to(mixed.dtype)
    if not count:
        return mixed, mass, torch.zeros_like(limit)
    _, counted = flex_attention(q.detach(), k.detach(), narrow, score_mod=ones, return_aux=aux)
    return mixed, mass, counted.lse.exp()
