"""Overrides of a recipe, from `search.run` and the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from castling.data.sources import source_settings
from search.config import SearchConfig, read_points
from space.budget import Budget, Limits
from space.point import Point


BOUNDS = tuple(Limits.__annotations__)
"""The overrides that change the budget: their bounds replace those of the recipe."""


class Overrides(Limits, total=False):
    """Overrides of a recipe's budget and fields; None leaves the value of the recipe."""

    objectives: Sequence[Mapping[str, str]] | None
    """The objectives, each {"metric": ..., "direction": "max" or "min"}."""
    points: str | Path | Sequence[Point] | None
    """Points to try first, or a YAML file of them; a dimension that is left out has the base's
    value."""
    trials: int | None
    """Number of candidates to train."""
    repeats: int | None
    """Number of trainings of each candidate."""
    workers: int | None
    """Number of candidates to train at a time."""
    strategy: str | None
    """Name of the strategy that generates candidates."""
    sampler: str | None
    """Name of the sampler that proposes them."""
    stopper: str | None
    """Name of the rule that stops trainings early."""
    seed: int | None
    """Seed of the proposals."""
    images: str | Path | None
    """Folder of class folders, or of train/ and test/ with them, or a source such as hf:photos."""
    training: str | None
    """Training recipe, a name or a YAML file."""
    settings: Mapping[str, Any] | None
    """Dotted config paths and values, such as {"train.epochs": 10}."""


def overridden(config: SearchConfig, overrides: Overrides) -> SearchConfig:
    """Return a search config with overrides in place of its fields.

    Raises:
        TypeError: when an override has no such name.
        ConfigError: when a value breaks a rule.
    """
    unknown = sorted(set(overrides) - set(Overrides.__annotations__))
    if unknown:
        known = ", ".join(Overrides.__annotations__)
        raise TypeError(f"no such override: {unknown[0]}; there are {known}")
    fields: dict[str, Any] = {
        name: value for name, value in overrides.items() if value is not None
    }
    limits = Budget.of(**{name: fields.pop(name) for name in BOUNDS if name in fields})
    images, settings = fields.pop("images", None), fields.pop("settings", {})
    from_images = {} if images is None else source_settings(images, settings)
    if isinstance(fields.get("points"), str | Path):
        fields["points"] = read_points(Path(fields["points"]))
    return config.replace(
        **fields,
        budget=limits.over(config.budget),
        set={**config.set, **from_images, **settings},
    )
