"""Complete searches as YAML, by name: what `castling search NAME` runs.

Each YAML file of this folder is one. Packages of others add theirs through the entry point group
`castling.recipes`: the path of such a file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from castling.errors import ConfigError
from castling.registry import Registry
from castling.untrusted.plain_yaml import head_line, read_text


@dataclass(frozen=True)
class Recipe:
    """A named recipe, not yet parsed: a listing needs only its first line."""

    path: Path
    """Of the YAML file."""

    @classmethod
    def of(cls, name: str, path: object) -> Self:
        """Return the recipe of what an entry point names; ConfigError where that is no path."""
        if not isinstance(path, str | Path):
            raise ConfigError(name, "must be the path of a YAML file", path)
        return cls(Path(path))

    @property
    def text(self) -> str:
        """The YAML; ConfigError where there is no such file."""
        return read_text(self.path)

    @property
    def summary(self) -> str:
        """The first line of the file's head comment."""
        return head_line(self.text)


RECIPES: Registry[Recipe] = Registry("recipe", entry_points="castling.recipes", entry=Recipe.of)
for _file in Path(__file__).parent.glob("*.yaml"):
    RECIPES.add(_file.stem, Recipe(_file))
