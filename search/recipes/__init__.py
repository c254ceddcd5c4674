"""Complete searches as YAML, by name: what `castling search NAME` runs.

Each YAML file of this folder is one. Packages of others add theirs through the entry point group
`castling.recipes`: the path of such a file.
"""

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from castling.errors import ConfigError
from castling.plain_yaml import head_line, read_text
from castling.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """A named recipe, not yet parsed: a listing needs only its first line."""

    name: str
    source: Path | str | EntryPoint
    """The YAML file; an entry point is loaded when the recipe is needed."""

    @property
    def text(self) -> str:
        """The YAML; ConfigError where there is no such file."""
        found: object = self.source
        if isinstance(found, EntryPoint):
            found = found.load()
        if not isinstance(found, str | Path):
            rule = "must be the path of a YAML file"
            raise ConfigError(f"castling.recipes: {self.name}", rule, found)
        return read_text(Path(found))

    @property
    def summary(self) -> str:
        """The first line of the file's head comment."""
        return head_line(self.text)


RECIPES: Registry[Recipe] = Registry("recipe")
for _file in Path(__file__).parent.glob("*.yaml"):
    RECIPES.add(_file.stem, Recipe(_file.stem, _file))
for _plugin in entry_points(group="castling.recipes"):
    RECIPES.add(_plugin.name, Recipe(_plugin.name, _plugin))
