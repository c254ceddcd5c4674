"""Penalties that a training adds to the loss of its task: L1 of the masks, cost of the gates."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from castling.config import TrainConfig
from castling.data.batches import Batch
from castling.operators.modules.auxiliary import AuxiliaryBranch, branches
from castling.operators.modules.gates import cost_penalty, gated
from castling.training.execution import Execution


class Regulariser(Protocol):
    """A term of the loss that depends on the model alone, not on labels."""

    def set_progress(self, progress: float) -> None:
        """Move its schedule to a fraction of training, 0 to 1."""

    def penalty(self) -> Tensor | None:
        """Return the penalty of the last forward pass; None adds nothing."""


class Masks:
    """The auxiliary branches of a model: their schedules and the L1 weight of their masks."""

    def __init__(self, model: nn.Module) -> None:
        self._branches = branches(model)

    @property
    def are_empty(self) -> bool:
        """Whether no branch has an effect any more: the model computes the same as castled."""
        return all(branch.is_empty for branch in self._branches)

    def set_progress(self, progress: float) -> None:
        """Move every mask's schedule to a fraction of training, 0 to 1."""
        for branch in self._branches:
            branch.set_progress(progress)

    def penalty(self) -> Tensor | None:
        """Return the weighted attention mass that survives the masks, summed over layers."""
        penalty = None
        for branch in self._branches:
            if branch.surviving_mass is not None and not branch.is_empty:
                mass = branch.schedule.l1_weight * branch.surviving_mass
                penalty = mass if penalty is None else penalty + mass
        return penalty

    def observe(self, batches: Iterable[Batch], execution: Execution) -> "MaskDensities":
        """Return batches that record the densities of a model's masks while it evaluates them.

        Args:
            batches: of an evaluation.
            execution: of the processes that share it.
        """
        return MaskDensities(self._branches, batches, execution)


class MaskDensities:
    """Batches of an evaluation, and the masks' mean densities over those that were evaluated."""

    def __init__(
        self, layers: Sequence[AuxiliaryBranch], batches: Iterable[Batch], execution: Execution
    ) -> None:
        self._layers, self._batches, self._execution = layers, batches, execution
        self._surviving: list[float | Tensor] = [0.0] * len(layers)
        self._num_images = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            yield batch
            # The consumer asks for the next batch once the model has seen this one.
            num_images = len(self._execution.shard(batch.labels))
            self._num_images += num_images
            for layer, branch in enumerate(self._layers):
                if not branch.is_empty:
                    self._surviving[layer] += branch.density * num_images

    def means(self) -> tuple[float, ...]:
        """Return, per layer with a branch, the fraction of mask entries that survived."""
        means = {
            str(layer): float(mass / max(1, self._num_images))
            for layer, mass in enumerate(self._surviving)
        }
        return tuple(self._execution.mean(means, self._num_images).values())


class GateCost:
    """The distance of gated modules' expected MACs from their target.

    Args:
        model: with gated modules, or without: then there is no penalty.
        config: target and weight.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._modules = gated(model)
        self._target, self._weight = config.gate_target, config.gate_weight

    def set_progress(self, progress: float) -> None:
        """Do nothing: the target is the same all along."""

    def penalty(self) -> Tensor | None:
        """Return the weighted squared relative distance from the target."""
        penalty = cost_penalty(self._modules, self._target)
        return self._weight * penalty if isinstance(penalty, Tensor) else None
