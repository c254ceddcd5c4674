"""The cost of a part of a model, or of all of it: three plain counts that add up."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Multiply-accumulates per image and parameters, plain counts.

    Linear layers, convolutions and attention products count, one MAC per multiply-add; norms and
    elementwise operations do not.
    """

    macs: int
    """Of the castled model."""
    params: int
    """Of the castled model; the auxiliary branch has none."""
    training_macs: int
    """Of the forward pass at the start of training, while the auxiliary branches are alive."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            macs=self.macs + other.macs,
            params=self.params + other.params,
            training_macs=self.training_macs + other.training_macs,
        )
