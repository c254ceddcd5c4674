"""Domains: the values that a dimension may take."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from castling.errors import ConfigError


Value: TypeAlias = bool | int | float | str | None
D_co = TypeVar("D_co", covariant=True)


class Forms(Protocol[D_co]):
    """The three forms of a domain that libraries of samplers support.

    `search.samplers.distributions` implements it with Optuna's distributions, so that a domain
    says which form it has and needs no library.
    """

    def categorical(self, values: tuple[Value, ...]) -> D_co:
        """Return the form of a few values without order."""

    def whole(self, low: int, high: int, step: int) -> D_co:
        """Return the form of whole numbers from low to high, both included, in steps."""

    def real(self, low: float, high: float, *, log: bool) -> D_co:
        """Return the form of real numbers from low to high, both included."""


class Domain(ABC):
    """The values that a dimension may take; a subclass is a frozen dataclass of plain values.

    A new kind of domain is one class, added to `space.kinds.DOMAINS` under its `kind`.
    """

    __slots__ = ()

    kind: ClassVar[str]
    """Name of the class in files."""

    @abstractmethod
    def all_values(self) -> Sequence[Value] | None:
        """Return all values in order; None where they cannot be listed."""

    @property
    @abstractmethod
    def is_ordered(self) -> bool:
        """Whether the values are numbers, so that neighbours have similar effects."""

    @abstractmethod
    def __contains__(self, value: object) -> bool:
        """Return whether a value is one of the domain, type and all."""

    @abstractmethod
    def extremes(self) -> Sequence[Value]:
        """Return the values between which the cost of every value lies."""

    @abstractmethod
    def to_unit(self, value: Any) -> float:
        """Return the place of a value in [0, 1]; `from_unit` leads back to the value."""

    @abstractmethod
    def from_unit(self, place: float) -> Value:
        """Return the value at a place of [0, 1]; equal parts of it for equally likely values."""

    @abstractmethod
    def form(self, forms: Forms[D_co]) -> D_co:
        """Return the domain in a form that libraries of samplers support."""

    @property
    def size(self) -> float:
        """Number of values, infinite where they cannot be listed."""
        values = self.all_values()
        return math.inf if values is None else len(values)

    def sample(self, rng: Random) -> Value:
        """Draw a value."""
        return self.from_unit(rng.random())

    def neighbour(self, value: Value, rng: Random) -> Value:
        """Return another value; of ordered ones that can be listed half of the time the next."""
        values = self.all_values()
        if values is None:
            return self.sample(rng)
        place = values.index(value)
        if self.is_ordered and rng.random() < 0.5:
            near = [at for at in (place - 1, place + 1) if 0 <= at < len(values)]
            return values[rng.choice(near)]
        at = rng.choice(range(len(values) - 1))
        return values[at + (at >= place)]

    def moved(self, value: Value, step: float, rng: Random) -> Value:
        """Return a value near another, reflected at the ends so that values do not pile up there.

        Args:
            value: from which to move.
            step: standard deviation of the move, as a part of the domain's range.
            rng: source of the move.
        """
        place = abs(self.to_unit(value) + rng.gauss(0.0, step))
        return self.from_unit(min(max(1.0 - abs(1.0 - place), 0.0), 1.0))

    @property
    def num_features(self) -> int:
        """Length of `features`."""
        return 1

    def features(self, value: Value) -> list[float]:
        """Return a value as numbers for a surrogate: in [-1, 1], in the domain's order."""
        return [2.0 * self.to_unit(value) - 1.0]

    def to_data(self) -> dict[str, Any]:
        """Return the domain as plain data, its kind included."""
        written: Any = self  # a dataclass, as every subclass is
        plain = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(written).items()
        }
        return {"kind": self.kind, **plain}


def is_same(one: object, other: object) -> bool:
    """Return whether two values are equal; 1, 1.0 and True are not."""
    return type(one) is type(other) and one == other


def is_number(value: object) -> bool:
    """Return whether a value is a number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Choice(Domain):
    """One of a few values without order."""

    values: tuple[Value, ...]
    kind: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        num_different = len(set(map(repr, self.values)))
        holds_nan = any(value not in self for value in self.values)  # NaN equals nothing
        if not self.values or num_different < len(self.values) or holds_nan:
            raise ConfigError("choices", "must be one or more different values", list(self.values))

    def __contains__(self, value: object) -> bool:
        return any(is_same(value, other) for other in self.values)

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.values))}]"

    def all_values(self) -> Sequence[Value]:
        """Return the values."""
        return self.values

    @property
    def is_ordered(self) -> bool:
        """Whether the values are numbers."""
        return all(map(is_number, self.values))

    def sample(self, rng: Random) -> Value:
        """Draw a value."""
        return rng.choice(self.values)

    def neighbour(self, value: Value, rng: Random) -> Value:
        """Return any other value."""
        others = [other for other in self.values if not is_same(other, value)]
        return rng.choice(others)

    def extremes(self) -> Sequence[Value]:
        """Return all values: costs may go up and down along them."""
        return self.values

    def to_unit(self, value: Value) -> float:
        """Return the middle of a value's part of [0, 1]."""
        place = next(at for at, other in enumerate(self.values) if is_same(other, value))
        return (place + 0.5) / len(self.values)

    def from_unit(self, place: float) -> Value:
        """Return the value whose part of [0, 1] holds a place."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def form(self, forms: Forms[D_co]) -> D_co:
        """Return the values without order, even where they are numbers."""
        return forms.categorical(self.values)

    @property
    def num_features(self) -> int:
        """One where the values are numbers, else one per value."""
        return 1 if self.is_ordered else len(self.values)

    def features(self, value: Value) -> list[float]:
        """Return a number's place in [-1, 1], else one-hot so that two values differ by 1."""
        if not self.is_ordered:
            return [is_same(other, value) / math.sqrt(2.0) for other in self.values]
        numbers = [float(other) for other in self.values if isinstance(other, int | float)]
        low, high = min(numbers), max(numbers)
        assert isinstance(value, int | float)
        return [0.0 if low == high else 2.0 * (float(value) - low) / (high - low) - 1.0]


@dataclass(frozen=True, slots=True)
class IntRange(Domain):
    """Whole numbers from low to high, both included, in steps."""

    low: int
    high: int
    step: int = 1
    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        if self.step < 1 or self.low > self.high or (self.high - self.low) % self.step:
            raise ConfigError("range", "must reach high from low in whole steps", str(self))

    def __contains__(self, value: object) -> bool:
        return type(value) is int and value in self.all_values()

    def __str__(self) -> str:
        return f"{self.low} to {self.high} in steps of {self.step}"

    def all_values(self) -> range:
        """Return the numbers, rising."""
        return range(self.low, self.high + 1, self.step)

    @property
    def size(self) -> int:
        """Number of values; `len` of a range takes none of more than 63 bits."""
        return (self.high - self.low) // self.step + 1

    @property
    def is_ordered(self) -> bool:
        """Whole numbers are."""
        return True

    def sample(self, rng: Random) -> int:
        """Draw a value."""
        return rng.randrange(self.low, self.high + 1, self.step)

    def extremes(self) -> Sequence[Value]:
        """Return the ends: costs are monotone in whole numbers."""
        return (self.low,) if self.low == self.high else (self.low, self.high)

    def to_unit(self, value: int) -> float:
        """Return a number's place between the ends."""
        return 0.5 if self.low == self.high else (value - self.low) / (self.high - self.low)

    def from_unit(self, place: float) -> int:
        """Return the number whose part of [0, 1] holds a place."""
        return self.low + min(int(place * self.size), self.size - 1) * self.step

    def form(self, forms: Forms[D_co]) -> D_co:
        """Return whole numbers in steps."""
        return forms.whole(self.low, self.high, self.step)


@dataclass(frozen=True, slots=True)
class FloatRange(Domain):
    """Real numbers from low to high, both included; on a logarithmic scale where asked."""

    low: float
    high: float
    log: bool = False
    kind: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        if not math.isfinite(self.high - self.low):
            raise ConfigError("range", "must have finite ends", str(self))
        if self.low > self.high or (self.log and self.low <= 0.0):
            raise ConfigError("range", "must have low <= high, and low > 0 where log", str(self))

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float) and self.low <= value <= self.high

    def __str__(self) -> str:
        scale = " on a logarithmic scale" if self.log else ""
        return f"{self.low} to {self.high}{scale}"

    def all_values(self) -> Sequence[Value] | None:
        """Return None, except where both ends are one number."""
        return (float(self.low),) if self.low == self.high else None

    @property
    def is_ordered(self) -> bool:
        """Real numbers are."""
        return True

    def sample(self, rng: Random) -> float:
        """Draw a value."""
        if self.log:
            return self._within(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self._within(rng.uniform(self.low, self.high))

    def moved(self, value: Value, step: float, rng: Random) -> float:
        """Return a number near another on the domain's scale, reflected at the ends."""
        assert isinstance(value, float)
        low, high = self._scaled(self.low), self._scaled(self.high)
        moved = self._scaled(value) + rng.gauss(0.0, step) * (high - low)
        moved = low + abs(moved - low)
        moved = high - abs(high - moved)
        return self._within(math.exp(moved) if self.log else moved)

    def extremes(self) -> Sequence[Value]:
        """Return the ends: costs are monotone in real numbers."""
        low, high = float(self.low), float(self.high)
        return (low,) if low == high else (low, high)

    def to_unit(self, value: float) -> float:
        """Return a number's place between the ends, on the domain's scale."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return 0.5 if low == high else (self._scaled(value) - low) / (high - low)

    def from_unit(self, place: float) -> float:
        """Return the number at a place between the ends, on the domain's scale."""
        low, high = self.low, self.high
        value = low * (high / low) ** place if self.log else low + place * (high - low)
        return self._within(value)

    def form(self, forms: Forms[D_co]) -> D_co:
        """Return real numbers."""
        return forms.real(self.low, self.high, log=self.log)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else float(value)

    def _within(self, value: float) -> float:
        return float(min(max(value, self.low), self.high))  # rounding may lead beyond an end
