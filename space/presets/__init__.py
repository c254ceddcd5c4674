"""Named spaces: what `castling search` searches unless a recipe says otherwise.

Each YAML file of this folder is one. Packages of others add theirs through the entry point group
`castling.spaces`: the path of such a file, or a function that returns a Space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from castling.config import Config, Positive
from castling.config.limits import MOST_BLOCKS, MOST_DIMENSIONS
from castling.errors import ConfigError
from castling.registry import Registry
from castling.untrusted.plain_yaml import head_line, read_text, read_yaml
from space.catalogue import DimensionConfig
from space.point import Space
from space.target import DEPTH


class Listing(Config):
    """The summary of a space in `castling spaces`; its file has it, as counting needs torch."""

    dimensions: Positive
    """Values of a point."""
    fewest_macs: Positive
    """Of the castled models."""
    most_macs: Positive
    """Of the castled models."""


class SpaceFile(Config):
    """The YAML file of a space."""

    listed: Listing | None = None
    """The summary of the space; None counts it when it is listed."""
    base: dict[str, Any] = Field(default_factory=dict)
    """Fields of the RunConfig that differ from the defaults."""
    depth: int | None = Field(default=None, ge=1, le=MOST_BLOCKS)
    """Number of blocks: the last block of the base is repeated; None leaves the blocks as they
    are."""
    num_stages: int = Field(default=2, ge=1, le=MOST_BLOCKS)
    """Into how many runs of consecutive blocks `tie: stage` cuts the depth."""
    dimensions: tuple[DimensionConfig, ...] = Field(default=(), max_length=MOST_DIMENSIONS)
    """The dimensions; the catalogue has the domain of one that names none."""

    def space(self, name: str) -> Space:
        """Return the space under a name; ConfigError where its parts do not fit together."""
        from castling.model.check import run_config  # imports torch, which a listing does not need

        base = run_config(self.base, "base")
        if self.depth is not None:
            data = base.to_data()
            DEPTH.set(data, self.depth)
            base = run_config(data, "base")
        return Space(
            name=name,
            base=base,
            dimensions=tuple(config.dimension() for config in self.dimensions),
            num_stages=self.num_stages,
        )


@dataclass(frozen=True)
class Preset:
    """A named space; calling it makes the space."""

    name: str
    source: Path | Callable[[], Space]
    """A YAML file of a space, or a function that makes one."""

    @classmethod
    def of(cls, name: str, source: object) -> Self:
        """Return the preset of an entry point's path or function; else ConfigError."""
        if isinstance(source, str):
            return cls(name, Path(source))
        if isinstance(source, Path) or callable(source):
            return cls(name, source)
        raise ConfigError(name, "must be the path of a YAML file, or a function", source)

    def __call__(self) -> Space:
        """Return the space.

        Raises:
            ConfigError: when its file is malformed, or its parts do not fit together.
        """
        if not isinstance(self.source, Path):
            return self.source()
        file = _read(self.source)
        try:
            return file.space(self.name)
        except ConfigError as error:
            place = f"{self.source}: {error.field}"
            raise ConfigError(place, error.rule, error.value, error.fix) from None

    @property
    def summary(self) -> str:
        """One line for the table of spaces: the file's first, or of the function's docstring."""
        if isinstance(self.source, Path):
            return head_line(read_text(self.source))
        return (self.source.__doc__ or "").strip().partition("\n")[0]

    def listing(self) -> Listing:
        """Return the summary for `castling spaces`, counted if the file has none."""
        stored = _read(self.source).listed if isinstance(self.source, Path) else None
        return stored or counted(self())


def _read(path: Path) -> SpaceFile:
    return SpaceFile.from_data(read_yaml(path), str(path))


def counted(space: Space) -> Listing:
    """Count a space for `castling spaces`."""
    from space.feasible import max_cost_point, min_cost_point, point_cost

    fewest, most = (
        point_cost(space, find(space, "macs")).macs for find in (min_cost_point, max_cost_point)
    )
    return Listing(dimensions=len(space.domains), fewest_macs=fewest, most_macs=most)


SPACES: Registry[Preset] = Registry("space", entry_points="castling.spaces", entry=Preset.of)
for _file in Path(__file__).parent.glob("*.yaml"):
    SPACES.add(_file.stem, Preset(_file.stem, _file))
