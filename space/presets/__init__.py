"""Named spaces: what `castling search` searches unless a recipe says otherwise.

Each YAML file of this folder is one. Packages of others add theirs through the entry point group
`castling.spaces`: the path of such a file, or a function that returns a Space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import Field

from castling.config import Config, Positive, RunConfig
from castling.errors import ConfigError
from castling.limits import MOST_BLOCKS, MOST_DIMENSIONS
from castling.plain_yaml import head_line, parse_yaml, read_text
from castling.registry import Registry
from space.catalogue import DimensionConfig
from space.point import Space
from space.target import DEPTH


class Listing(Config):
    """What `castling spaces` says of a space; stored in its file, since counting needs torch."""

    dimensions: Positive
    """Values of a point."""
    fewest_macs: Positive
    """Of the castled models."""
    most_macs: Positive
    """Of the castled models."""


class SpaceFile(Config):
    """A space as its YAML file has it."""

    listed: Listing | None = None
    """What is counted of the space; None counts it when it is listed."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Fields of the RunConfig that differ from the defaults."""
    depth: int | None = Field(default=None, ge=1, le=MOST_BLOCKS)
    """Number of blocks: of the base's, the last is repeated; None leaves them as they are."""
    num_stages: int = Field(default=2, ge=1, le=MOST_BLOCKS)
    """Into how many runs of consecutive blocks `tie: stage` cuts the depth."""
    dimensions: tuple[DimensionConfig, ...] = Field(default=(), max_length=MOST_DIMENSIONS)
    """What is searched; what a dimension leaves out comes from the catalogue."""

    def space(self, name: str) -> Space:
        """Return the space under a name; ConfigError where its parts do not fit together."""
        base = RunConfig.from_data(self.base, "base").to_data()
        if self.depth is not None:
            DEPTH.set(base, self.depth)
        return Space(
            name=name,
            base=RunConfig.from_data(base, "base"),
            dimensions=tuple(config.dimension() for config in self.dimensions),
            num_stages=self.num_stages,
        )


Source: TypeAlias = Path | Callable[[], Space]
"""A YAML file of a space, or a function that makes one."""


@dataclass(frozen=True)
class Preset:
    """A named space; calling it makes the space."""

    name: str
    source: Source | EntryPoint
    """An entry point is loaded only when the space is needed: it may import much."""

    def __call__(self) -> Space:
        """Return the space.

        Raises:
            ConfigError: when its file is malformed, or its parts do not fit together.
        """
        source = self._loaded
        if not isinstance(source, Path):
            return source()
        file = self._read(source)
        try:
            return file.space(self.name)
        except ConfigError as error:
            raise ConfigError(
                f"{source}: {error.field}", error.rule, error.value, error.fix
            ) from None

    @property
    def summary(self) -> str:
        """One line for the table of spaces: the file's first, or of the function's docstring."""
        source = self._loaded
        if isinstance(source, Path):
            return head_line(read_text(source))
        return (source.__doc__ or "").strip().partition("\n")[0]

    def listing(self) -> Listing:
        """Return what `castling spaces` says of the space, counted where no file says it."""
        source = self._loaded
        stored = self._read(source).listed if isinstance(source, Path) else None
        return stored or counted(self())

    @cached_property
    def _loaded(self) -> Source:
        found: object = self.source
        if isinstance(found, EntryPoint):
            found = found.load()
        if isinstance(found, str | Path):
            return Path(found)
        if not callable(found):
            rule = "must be the path of a YAML file, or a function that returns a Space"
            raise ConfigError(f"castling.spaces: {self.name}", rule, found)
        return found

    def _read(self, path: Path) -> SpaceFile:
        return SpaceFile.from_data(parse_yaml(read_text(path), str(path)), str(path))


def counted(space: Space) -> Listing:
    """Return what `castling spaces` says of a space."""
    from space.feasible import max_cost_point, min_cost_point, point_cost

    fewest, most = (
        point_cost(space, find(space, "macs")).macs for find in (min_cost_point, max_cost_point)
    )
    return Listing(dimensions=len(space.domains), fewest_macs=fewest, most_macs=most)


SPACES: Registry[Preset] = Registry("space")
for _file in Path(__file__).parent.glob("*.yaml"):
    SPACES.add(_file.stem, Preset(_file.stem, _file))
for _plugin in entry_points(group="castling.spaces"):
    SPACES.add(_plugin.name, Preset(_plugin.name, _plugin))
