"""Complete searches as YAML, by name: what `castling search NAME` runs.

Each YAML file of this folder is one. Packages of others add theirs through the entry point group
`castling.recipes`: the path of such a file.
"""

from pathlib import Path

from castling.registry import Registry
from castling.untrusted.yaml_file import YamlFile as Recipe


__all__ = ["RECIPES", "Recipe"]

RECIPES: Registry[Recipe] = Registry("recipe", entry_points="castling.recipes", entry=Recipe.of)
for _file in Path(__file__).parent.glob("*.yaml"):
    RECIPES.add(_file.stem, Recipe(_file))
