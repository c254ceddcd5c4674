"""Which parts of a model work in training only: `castle` asks by these two classes."""

from typing import ClassVar

from torch import nn


class TrainingOnly(nn.Module):
    """A part of a model that works in training only: castling removes it."""


class BranchHolder(nn.Module):
    """A module of which more than the branch works in training only, such as its biases."""

    training_only: ClassVar[tuple[str, ...]] = ()
    """Names of the parts and tensors that castling removes together with the branch."""

    def drop_training_only(self) -> None:
        """Remove what works in training only, as far as it is there."""
        for name in self.training_only:
            if hasattr(self, name):
                delattr(self, name)
