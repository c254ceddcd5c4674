"""The training-only branch: softmax attention whose mask empties on a schedule."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from castling.config import MaskSchedule


class AuxiliaryBranch(nn.Module):
    """Masked softmax attention S v with S = A * (A > eps), A = softmax(q k^T / sqrt(d)).

    Entries that survive keep their value (no renormalisation) and their gradient; none flows
    through the comparison. Source: Castling-ViT (You et al., CVPR 2023), where eps is a constant
    0.02; here a `MaskSchedule` raises it to 1, where the mask is exactly empty and the branch is
    skipped. Costs 2 N^2 A MACs while alive and has no parameters.
    """

    progress: Tensor

    def __init__(self, schedule: MaskSchedule, num_tokens: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.num_tokens = num_tokens
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.register_load_state_dict_post_hook(_read_threshold)  # type: ignore[no-untyped-call]
        self.threshold = schedule.threshold(0.0, num_tokens)
        self.surviving_mass: Tensor | None = None
        """Mean attention mass that survives, of the last forward pass, where the loss needs it."""
        self.density = 0.0
        """Fraction of the mask's entries that survived in the last forward pass in eval mode."""

    def set_progress(self, progress: float) -> None:
        """Move the schedule to a fraction of training, 0 to 1."""
        self.progress.fill_(progress)
        self.threshold = self.schedule.threshold(progress, self.num_tokens)

    @property
    def is_empty(self) -> bool:
        """Whether no entry can survive: the branch then adds nothing and is skipped."""
        return self.threshold >= 1.0

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        bias: Float[Tensor, "... query key"] | None = None,
    ) -> Float[Tensor, "batch head query value"]:
        """Return S v for un-normalised q, k, v, per head; `bias` is added before the softmax."""
        scaled = q * q.shape[-1] ** -0.5
        if self.training and bias is None and self.schedule.l1_weight == 0.0 and _by_image(q):
            self.surviving_mass = None
            return _MaskedAttention.apply(scaled, k, v, self.threshold)
        logits = scaled @ k.transpose(-2, -1)
        attention = (logits if bias is None else logits + bias).softmax(dim=-1)
        surviving = F.threshold(attention, self.threshold, 0.0)
        if self.training:
            self.surviving_mass = (
                surviving.sum(-1).mean() if self.schedule.l1_weight > 0.0 else None
            )
        elif not surviving.is_meta:  # there it has no value
            self.density = (surviving > 0.0).float().mean().item()
        return surviving @ v


def _by_image(q: Tensor) -> bool:
    """Return whether images are best taken one by one, which a compiler would unroll."""
    return q.device.type == "cpu" and not torch.compiler.is_compiling()


class _MaskedAttention(torch.autograd.Function):
    """S v image by image: a map of attention is made and used while it is in the cache.

    Only the softmax is kept for the backward pass; which entries survived is seen again from it.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, threshold: float) -> Tensor:
        batch, heads, queries, _ = q.shape
        attention = q.new_empty(batch, heads, queries, k.shape[2])
        mixed = v.new_empty(batch, queries, heads, v.shape[3]).transpose(1, 2)
        for image in range(batch):
            logits = q[image] @ k[image].transpose(1, 2)
            torch.softmax(logits, dim=-1, out=attention[image])
            mixed[image] = F.threshold(attention[image], threshold, 0.0) @ v[image]
        ctx.save_for_backward(q, k, v, attention)
        ctx.threshold = threshold
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, attention = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for image in range(q.shape[0]):
            probabilities, g = attention[image], gradient[image]
            surviving = F.threshold(probabilities, ctx.threshold, 0.0)
            dv[image] = surviving.transpose(1, 2) @ g
            # through S = A * (A > eps) and the softmax: A * (M * dS - sum of A * M * dS)
            weighted = surviving.mul_(g @ v[image].transpose(1, 2))
            dlogits = weighted.addcmul_(probabilities, weighted.sum(-1, keepdim=True), value=-1.0)
            dq[image] = dlogits @ k[image]
            dk[image] = dlogits.transpose(1, 2) @ q[image]
        return dq, dk, dv, None


def _read_threshold(branch: nn.Module, _: object) -> None:
    assert isinstance(branch, AuxiliaryBranch)
    if not branch.progress.is_meta:  # there it has no value
        branch.set_progress(branch.progress.item())


def masked_attention(
    layer: nn.Module,
    q: Float[Tensor, "batch head query size"],
    k: Float[Tensor, "batch head key size"],
    v: Float[Tensor, "batch head key value"],
) -> Float[Tensor, "batch head query value"] | None:
    """Return what a layer's branch `auxiliary` adds; None without one, or once it is empty."""
    branch = getattr(layer, "auxiliary", None)
    return None if branch is None or branch.is_empty else branch(q, k, v)


def branches(model: nn.Module) -> list[AuxiliaryBranch]:
    """Return the auxiliary branches of a model, first layer to last."""
    return [module for module in model.modules() if isinstance(module, AuxiliaryBranch)]
