"""Points and spaces: dimensions, tied across layers, whose values make a RunConfig."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from random import Random
from types import MappingProxyType
from typing import Literal, TypeAlias

from castling.config import RunConfig
from castling.errors import ConfigError, InvalidPointError
from castling.limits import MOST_BLOCKS
from space.domain import Domain, Value


Tie: TypeAlias = Literal["each", "stage", "all"]
Point: TypeAlias = Mapping[str, Value]
"""A value for every dimension name of a space."""

DEPTH = "model.depth"
"""The one target that is no field: the number of blocks."""
BLOCKS = "model.blocks.*."


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One thing that may be searched: a config field and its values.

    A target `model.blocks.*.FIELD` is a field of every block; `tie` says whether the blocks choose
    it each for itself, stage by stage, or all alike.
    """

    target: str
    domain: Domain
    tie: Tie = "all"
    why: str = ""

    @property
    def is_per_block(self) -> bool:
        """Whether the target is a field of the blocks."""
        return self.target.startswith(BLOCKS)

    @property
    def block_field(self) -> str:
        """The dotted path inside a block: `operator`, `mask.shape`."""
        return self.target.removeprefix(BLOCKS)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Named dimensions over a base config.

    Blocks beyond the depth of a point do not exist, so their dimensions are not active; neither
    are those that the chosen operators ignore.
    """

    name: str
    base: RunConfig
    """Every field that no dimension sets; its last block stands in for missing deeper ones."""
    dimensions: tuple[Dimension, ...]
    num_stages: int = 2
    """Into how many runs of consecutive blocks `tie: stage` cuts the depth."""

    def __post_init__(self) -> None:
        targets = [dimension.target for dimension in self.dimensions]
        doubled = sorted({target for target in targets if targets.count(target) > 1})
        if doubled:
            raise ConfigError("dimensions", "must not repeat a target", doubled)
        for dimension in self.dimensions:
            depths = dimension.domain.extremes()
            if dimension.target == DEPTH and not all(map(_is_depth, depths)):
                rule = f"must have whole numbers from 1 to {MOST_BLOCKS} as values"
                raise ConfigError(DEPTH, rule, list(depths))

    @cached_property
    def max_depth(self) -> int:
        """The most blocks a point may have."""
        for dimension in self.dimensions:
            if dimension.target == DEPTH:
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
        if not dimension.is_per_block or dimension.tie == "all":
            return [dimension.target]
        if dimension.tie == "stage":
            keys = [f"stage{stage}" for stage in range(self.num_stages)]
        else:
            keys = [str(layer) for layer in range(self.max_depth)]
        return [f"model.blocks.{key}.{dimension.block_field}" for key in keys]

    def name_at(self, dimension: Dimension, layer: int, depth: int) -> str:
        """Return the name that holds a per-block dimension's value for one layer."""
        stage = min(layer * self.num_stages // depth, self.num_stages - 1)
        return _block_name(dimension.target, dimension.tie, layer, stage)

    def depth(self, point: Point) -> int:
        """Return the number of blocks of a point."""
        depth = point.get(DEPTH, len(self.base.model.blocks))
        assert isinstance(depth, int)
        return depth

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
        """Draw a point, every dimension on its own."""
        return {name: domain.sample(rng) for name, domain in self.domains.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides what a point means."""
        described = {
            "base": self.base.to_data(),
            "dimensions": [
                {
                    "target": dim.target,
                    "tie": dim.tie,
                    "kind": type(dim.domain).__name__,
                    "domain": asdict(dim.domain),
                }
                for dim in self.dimensions
            ],
            "num_stages": self.num_stages,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=4096)
def _block_name(target: str, tie: Tie, layer: int, stage: int) -> str:
    key = {"all": "*", "stage": f"stage{stage}", "each": str(layer)}[tie]
    return f"model.blocks.{key}.{target.removeprefix(BLOCKS)}"


def _is_depth(value: Value) -> bool:
    return type(value) is int and 1 <= value <= MOST_BLOCKS
