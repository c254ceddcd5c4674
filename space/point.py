"""Points and spaces: dimensions, tied across layers, whose values make a RunConfig."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias

from pydantic import Field

from castling.config import Config, RunConfig
from castling.config.limits import MOST_BLOCKS
from castling.errors import ConfigError, InvalidPointError
from space.domain import Domain, Value
from space.kinds import domain_from_data
from space.target import DEPTH, EVERY, Target


Tie: TypeAlias = Literal["each", "stage", "all"]
Point: TypeAlias = Mapping[str, Value]
"""A value for every dimension name of a space."""


@dataclass(frozen=True, slots=True, init=False)
class Dimension:
    """A dimension of a space: a config field and its values.

    A target `model.blocks.*.FIELD` is a field of every block; `tie` says whether every block,
    every stage, or all blocks together have one value.
    """

    target: Target
    domain: Domain
    tie: Tie
    why: str

    def __init__(
        self, *, target: Target | str, domain: Domain, tie: Tie = "all", why: str = ""
    ) -> None:
        path = Target(target) if isinstance(target, str) else target
        for name, value in (("target", path), ("domain", domain), ("tie", tie), ("why", why)):
            object.__setattr__(self, name, value)

    def to_data(self) -> dict[str, Any]:
        """Return the dimension as plain data, every default written out."""
        return {
            "target": self.target.path,
            "tie": self.tie,
            "domain": self.domain.to_data(),
            "why": self.why,
        }


class _DimensionData(Config):
    """What `Dimension.to_data` writes."""

    target: str
    tie: Tie
    domain: dict[str, Any]
    why: str = ""

    def dimension(self) -> Dimension:
        """Return the dimension; ConfigError where its domain is none."""
        try:
            domain = domain_from_data(self.domain)
        except ConfigError as error:
            place = f"dimensions: {self.target}: {error.field}"
            raise ConfigError(place, error.rule, error.value, error.fix) from None
        return Dimension(target=self.target, domain=domain, tie=self.tie, why=self.why)


class _SpaceData(Config):
    """What `Space.to_data` writes."""

    name: str
    base: RunConfig
    dimensions: tuple[_DimensionData, ...]
    num_stages: int = Field(ge=1, le=MOST_BLOCKS)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Named dimensions over a base config.

    Dimensions of blocks beyond the depth of a point are not active, nor are those of fields that
    the chosen operators ignore.
    """

    name: str
    base: RunConfig
    """Every field that no dimension sets; its last block stands in for missing deeper ones."""
    dimensions: tuple[Dimension, ...]
    num_stages: int = 2
    """Into how many runs of consecutive blocks `tie: stage` cuts the depth."""

    def __post_init__(self) -> None:
        targets = [dimension.target for dimension in self.dimensions]
        doubled = sorted({str(target) for target in targets if targets.count(target) > 1})
        if doubled:
            raise ConfigError("dimensions", "must not repeat a target", doubled)
        for dimension in self.dimensions:
            target, values = dimension.target, dimension.domain.extremes()
            if target != target.of_every_block:
                rule = "must be a field of every block; `tie: each` lets each block choose"
                fix = f"write {target.of_every_block}"
                raise ConfigError("dimensions", rule, target.path, fix)
            if target.is_depth and not all(map(_is_depth, values)):
                rule = f"must have whole numbers from 1 to {MOST_BLOCKS} as values"
                raise ConfigError(target.path, rule, list(values))

    @cached_property
    def max_depth(self) -> int:
        """The most blocks a point may have."""
        for dimension in self.dimensions:
            if dimension.target.is_depth:
                return max(
                    int(value) for value in dimension.domain.extremes() if value is not None
                )
        return len(self.base.model.blocks)

    @cached_property
    def domains(self) -> Mapping[str, Domain]:
        """The domain of every name of a point, in a fixed order."""
        named = {name: dim.domain for dim in self.dimensions for name in self.names(dim)}
        return MappingProxyType(named)

    def names(self, dimension: Dimension) -> list[str]:
        """Return the names under which points hold a dimension's values."""
        if not dimension.target.is_per_block or dimension.tie == "all":
            return [dimension.target.path]
        if dimension.tie == "stage":
            keys = [f"stage{stage}" for stage in range(self.num_stages)]
        else:
            keys = [str(layer) for layer in range(self.max_depth)]
        return [dimension.target.at(key) for key in keys]

    def name_at(self, dimension: Dimension, layer: int, depth: int) -> str:
        """Return the name that holds a per-block dimension's value for one layer."""
        stage = min(layer * self.num_stages // depth, self.num_stages - 1)
        return _block_name(dimension.target, dimension.tie, layer, stage)

    def depth(self, point: Point) -> int:
        """Return the number of blocks of a point."""
        depth = point.get(DEPTH.path, len(self.base.model.blocks))
        assert isinstance(depth, int)
        return depth

    def each(self, point: Point) -> dict[str, Value]:
        """Return a point whose values of a whole dimension stand under each of its names.

        In a point, the target of a per-block dimension, such as `model.blocks.*.conv_kernel`,
        stands for all its blocks or stages; a name of one of them goes before.
        """
        names = {dim.target.path: self.names(dim) for dim in self.dimensions}
        found: dict[str, Value] = {}
        for name, value in point.items():
            found |= dict.fromkeys(names.get(name, [name]), value)
        return found | {name: value for name, value in point.items() if name in self.domains}

    def check(self, point: Point) -> None:
        """Raise InvalidPointError unless the point has exactly the dimensions, all in domain."""
        for name in point:
            if name not in self.domains:
                raise InvalidPointError(name, "is not a dimension of this space")
        for name, domain in self.domains.items():
            if name not in point:
                raise InvalidPointError(name, "is missing")
            if point[name] not in domain:
                raise InvalidPointError(name, f"must lie in {domain}", point[name])

    def sample(self, rng: Random) -> dict[str, Value]:
        """Draw a point, every dimension independently."""
        return {name: domain.sample(rng) for name, domain in self.domains.items()}

    def to_data(self) -> dict[str, Any]:
        """Return the whole space as plain data, with every default and choice written out.

        Nothing in it depends on which operators are registered, or on the defaults of a field.
        """
        from castling.model.check import resolve  # imports torch, which reading a space does not

        return {
            "name": self.name,
            "num_stages": self.num_stages,
            "base": self.base.replace(model=resolve(self.base.model)).to_data(),
            "dimensions": [dimension.to_data() for dimension in self.dimensions],
        }

    @classmethod
    def from_data(cls, data: object, where: str = "") -> Self:
        """Return the space that `to_data` wrote; `where` names the file in the error.

        Raises:
            ConfigError: when it is none, or has a field that this version does not know.
        """
        read = _SpaceData.from_data(data, where)
        return cls(
            name=read.name,
            base=read.base,
            dimensions=tuple(dimension.dimension() for dimension in read.dimensions),
            num_stages=read.num_stages,
        )


@lru_cache(maxsize=4096)
def _block_name(target: Target, tie: Tie, layer: int, stage: int) -> str:
    return target.at({"all": EVERY, "stage": f"stage{stage}", "each": str(layer)}[tie])


def _is_depth(value: Value) -> bool:
    return type(value) is int and 1 <= value <= MOST_BLOCKS
