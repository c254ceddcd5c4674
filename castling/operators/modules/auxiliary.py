"""The training-only branch: softmax attention whose mask empties on a schedule."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from castling.config import MaskSchedule
from castling.kernels import flex, masked_attention as native, paths
from castling.kernels.arguments import is_transformed
from castling.operators.modules.training_only import TrainingOnly


class AuxiliaryBranch(TrainingOnly):
    """Masked softmax attention S v with S = A * (A > eps), A = softmax(q k^T / sqrt(d)).

    Entries that survive keep their value (no renormalisation) and their gradient; none flows
    through the comparison. Source: Castling-ViT (You et al., CVPR 2023), where eps is a constant
    0.02; here a `MaskSchedule` raises it to 1, where the mask is exactly empty and the branch is
    skipped. Costs 2 N^2 A MACs while alive and has no parameters. `num_tokens` sets the scale of
    the thresholds and nothing else: other numbers of tokens meet the same thresholds.
    """

    progress: Tensor

    def __init__(self, schedule: MaskSchedule, num_tokens: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.num_tokens = num_tokens
        self.register_buffer("progress", torch.zeros((), dtype=torch.float64))
        self.register_load_state_dict_post_hook(_read_threshold)  # type: ignore[no-untyped-call]
        self.is_empty = False
        """Whether no entry can survive: the branch then adds nothing and is skipped."""
        self._limit = torch.zeros((), dtype=torch.float64, device="cpu")
        self.threshold = schedule.threshold(0.0, num_tokens)
        self.surviving_mass: Tensor | None = None
        """Mean attention mass that survives, of the last forward pass, where the loss needs it."""
        self.density: float | Tensor = 0.0
        """Fraction of the mask's entries that survived in the last forward pass in eval mode, on
        its device: a forward pass waits for nothing."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:  # noqa: FBT001, FBT002 - torch's signature
        """Move the branch with its model, but cast nothing: `progress` is a time, no weight."""
        exact = self.progress
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.progress.dtype != exact.dtype:
            self.progress = exact.to(self.progress.device)
        return self

    def set_progress(self, progress: float) -> None:
        """Move the schedule to a fraction of training, 0 to 1."""
        self.progress.fill_(progress)
        self.threshold = self.schedule.threshold(progress, self.num_tokens)

    @property
    def threshold(self) -> float:
        """The attention that an entry must exceed to survive."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        self._threshold = threshold
        self._limit.fill_(threshold)
        self.is_empty = threshold >= 1.0

    @property
    def limit(self) -> float | Tensor:
        """The threshold as a number; to a compiler a tensor: its change compiles nothing."""
        return self._limit if torch.compiler.is_compiling() else self._threshold

    @property
    def needs_map(self) -> bool:
        """Whether a forward pass needs A itself: the loss wants its mass."""
        return self.training and self.schedule.l1_weight > 0.0

    def note(self, survivors: Float[Tensor, "batch head query"], num_keys: int) -> None:
        """Note the density of a forward pass in eval mode, of the survivors of each query."""
        if not self.training and _has_values(survivors):
            self.density = _exact(survivors.mean()) / num_keys

    def forward(
        self,
        q: Float[Tensor, "batch head query size"],
        k: Float[Tensor, "batch head key size"],
        v: Float[Tensor, "batch head key value"],
        bias: Float[Tensor, "... query key"] | None = None,
    ) -> Float[Tensor, "batch head query value"]:
        """Return S v for un-normalised q, k, v, per head; `bias` is added before the softmax."""
        path = paths.branch_choice(q, k, v, bias, needs_mass=self.needs_map).path
        if path == "c":
            mixed, survivors = native.masked_attention(q, k, v, self.threshold)
            self.note(survivors, k.shape[2])
            return mixed
        if path in {"flex", "chunks"}:
            return self._without_maps(q, k, v, bias, path)
        surviving = flex.surviving_attention(q, k, bias, self.limit)
        self.surviving_mass = surviving.sum(-1).mean() if self.needs_map else None
        if not self.training and _has_values(surviving):
            self.density = _exact((surviving > 0.0).float().mean())
        return surviving @ v

    def _without_maps(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, path: str
    ) -> Tensor:
        if path == "flex":
            made = flex.attend(q, k, v, self.limit, count=not self.training)
        else:
            made = flex.chunked(q, k, v, bias, self.limit)
        self.surviving_mass = made.mass.mean() if self.needs_map else None
        if made.survivors is not None:
            self.note(made.survivors, k.shape[2])
        return made.mixed


def _exact(density: Tensor) -> Tensor:
    """Return a density in float64, where the device has that type."""
    return density.detach().to(torch.float32 if density.device.type == "mps" else torch.float64)


def _has_values(x: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()  # a graph of another process keeps no density
    return not (x.is_meta or is_transformed())


def _read_threshold(branch: nn.Module, _: object) -> None:
    assert isinstance(branch, AuxiliaryBranch)
    if not branch.progress.is_meta:  # there it has no value
        branch.set_progress(branch.progress.item())


def alive_branch(layer: nn.Module) -> AuxiliaryBranch | None:
    """Return a layer's branch `auxiliary`; None without one, or once it is empty."""
    branch = getattr(layer, "auxiliary", None)
    return None if branch is None or branch.is_empty else branch


def branches(model: nn.Module) -> list[AuxiliaryBranch]:
    """Return the auxiliary branches of a model, first layer to last."""
    return [module for module in model.modules() if isinstance(module, AuxiliaryBranch)]
