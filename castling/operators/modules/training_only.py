"""Marks the parts of a model that are used in training only: `castle` removes them."""

from typing import ClassVar

from torch import nn


class TrainingOnly(nn.Module):
    """A part of a model that works in training only: castling removes it."""


class BranchHolder(nn.Module):
    """A module with further training-only parts besides the branch, such as biases."""

    training_only: ClassVar[tuple[str, ...]] = ()
    """Names of the parts and tensors that castling removes together with the branch."""

    def drop_training_only(self) -> None:
        """Remove the training-only parts that exist."""
        for name in self.training_only:
            if hasattr(self, name):
                delattr(self, name)
