"""Recipes of trainings as YAML, by name: `castling train CONFIG --training NAME`.

Each YAML file of this folder is one. Packages of others add theirs through the entry point group
`castling.trainings`: the path of such a file.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from castling.config import Architecture, BackboneConfig, Config, RunConfig, TrainConfig
from castling.errors import ConfigError
from castling.registry import Registry
from castling.untrusted.plain_yaml import parse_yaml, read_yaml
from castling.untrusted.yaml_file import YamlFile


TRAININGS: Registry[YamlFile] = Registry(
    "training recipe", entry_points="castling.trainings", entry=YamlFile.of
)
for _file in Path(__file__).parent.glob("*.yaml"):
    TRAININGS.add(_file.stem, YamlFile(_file))
DROP_PATH_RATE = "drop_path_rate"
"""The option of timm's models for the largest drop path probability."""


class TrainingRecipe(Config):
    """A training recipe: fields of `train` that it replaces, and the model's drop path."""

    train: dict[str, Any] = Field(default_factory=dict)
    """Fields of TrainConfig, which replace those of a config; those left out stay as they are.
    `augment` is replaced as a whole, `initial` only where the config begins with random
    weights."""
    drop_path: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Drop path probability of the last block, from 0 in the first one up in equal steps, as timm
    has it; null leaves that of the model."""

    @model_validator(mode="after")
    def _trains(self) -> "TrainingRecipe":
        TrainConfig.from_data(self.train, "train")
        return self


def read_training(name: str) -> TrainingRecipe:
    """Return the training recipe of a name, or of a YAML file.

    Raises:
        ConfigError: when it is neither, or the YAML is malformed or breaks a rule.
    """
    if name in TRAININGS:
        return TrainingRecipe.from_data(parse_yaml(TRAININGS[name].text, name), name)
    if not Path(name).is_file():
        rule = f"must be one of {', '.join(TRAININGS)}, or the path of a YAML file"
        raise ConfigError("training", rule, name)
    return TrainingRecipe.from_data(read_yaml(Path(name)), name)


def training_settings(name: str, run: RunConfig) -> dict[str, Any]:
    """Return the dotted config paths that a training recipe sets, and their values.

    Args:
        name: of the recipe, or the path of its YAML file.
        run: the training that it changes.

    Raises:
        ConfigError: when there is no such recipe, or it breaks a rule.
    """
    recipe = read_training(name)
    train = {f"train.{field}": value for field, value in recipe.train.items()}
    if run.train.initial is not None:
        train.pop("train.initial", None)
    rate = recipe.drop_path
    return train if rate is None else {**train, **_drop_path(rate, run.model)}


def _drop_path(rate: float, model: Architecture) -> dict[str, float]:
    """Return the settings that give a model drop path with a largest probability."""
    if isinstance(model, BackboneConfig):
        is_set = rate > 0.0 or DROP_PATH_RATE in model.options
        return {f"model.options.{DROP_PATH_RATE}": rate} if is_set else {}
    last = max(1, len(model.blocks) - 1)
    return {
        f"model.blocks.{index}.drop_path": rate * index / last
        for index in range(len(model.blocks))
    }
