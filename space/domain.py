"""Domains: the values that a dimension may take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from castling.errors import ConfigError


Value: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values without order."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        num_different = len(set(map(repr, self.values)))
        holds_nan = any(value not in self for value in self.values)  # NaN equals nothing
        if not self.values or num_different < len(self.values) or holds_nan:
            raise ConfigError("choices", "must be one or more different values", list(self.values))

    def __contains__(self, value: object) -> bool:
        return any(type(value) is type(known) and value == known for known in self.values)

    def sample(self, rng: Random) -> Value:
        """Draw a value."""
        return rng.choice(self.values)

    def extremes(self) -> Sequence[Value]:
        """Return the values between which every cost of the domain lies: all of them."""
        return self.values


@dataclass(frozen=True, slots=True)
class IntRange:
    """Whole numbers from low to high, both included, in steps."""

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or self.low > self.high or (self.high - self.low) % self.step:
            raise ConfigError("range", "must reach high from low in whole steps", str(self))

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and (value - self.low) % self.step == 0
        )

    def sample(self, rng: Random) -> int:
        """Draw a value."""
        return rng.randrange(self.low, self.high + 1, self.step)

    def extremes(self) -> Sequence[Value]:
        """Return the ends: costs are monotone in whole numbers."""
        return (self.low,) if self.low == self.high else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class FloatRange:
    """Real numbers from low to high, both included; on a logarithmic scale where asked."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.high - self.low):
            raise ConfigError("range", "must have finite ends", str(self))
        if self.low > self.high or (self.log and self.low <= 0.0):
            raise ConfigError("range", "must have low <= high, and low > 0 where log", str(self))

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float) and self.low <= value <= self.high

    def sample(self, rng: Random) -> float:
        """Draw a value."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = rng.uniform(self.low, self.high)
        return float(min(max(drawn, self.low), self.high))  # both may round beyond an end

    def extremes(self) -> Sequence[Value]:
        """Return the ends: costs are monotone in real numbers."""
        low, high = float(self.low), float(self.high)
        return (low,) if low == high else (low, high)


Domain: TypeAlias = Choice | IntRange | FloatRange
