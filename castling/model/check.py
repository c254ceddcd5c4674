"""Checks of configs that need operators and timm: can a model be built, when are two equal."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from castling.config import (
    OPERATOR_FIELDS,
    Architecture,
    Config,
    LayerChoice,
    RunConfig,
    StockBackbone,
)
from castling.errors import ConfigError
from castling.model.adapters.sites import sites_of
from castling.model.architecture import architecture_of
from castling.operators import OPERATORS
from castling.untrusted.plain_yaml import read_yaml


L = TypeVar("L", bound=LayerChoice)
UNSEEN = ("loader_workers",)
"""Fields of `data` on which no result depends: a training may go on with other values."""


def read_run_config(path: Path) -> RunConfig:
    """Return the RunConfig of a YAML file, or of the config.yaml in a folder, checked.

    Raises:
        ConfigError: when the file is missing or malformed, or breaks a rule.
    """
    file = path / "config.yaml" if path.is_dir() else path
    return run_config(read_yaml(file), str(file))


def run_config(data: object, where: str = "") -> RunConfig:
    """Return the RunConfig of plain data as YAML holds it, checked.

    If `model.blocks` of a backbone is one choice, or an operator's name, every attention layer has
    it.

    Args:
        data: a mapping of RunConfig's fields.
        where: the file that the data is from, for the error.

    Raises:
        ConfigError: when a field is unknown, out of its range, or the model cannot be built.
    """
    try:
        return checked(RunConfig.from_data(_written_out(data)))
    except ConfigError as error:
        if not where:
            raise
        field = ": ".join(part for part in (where, error.field) if part)
        raise ConfigError(field, error.rule, error.value) from None


def checked(run: RunConfig) -> RunConfig:
    """Return a run whose model can be built; ConfigError where it cannot."""
    with _section("model"):
        check(run.model)
    return run


def check(model: Architecture) -> None:
    """Raise ConfigError unless a model can be built.

    Operators must exist, have the options that are set, and serve the layers that they are chosen
    for; a backbone must be a model of timm with attention that can be converted.
    """
    for index, layer in enumerate(model.blocks):
        with _section(f"blocks.{index}"):
            check_layer(layer)
    architecture_of(model).check()


def check_layer(layer: LayerChoice) -> None:
    """Raise ConfigError unless a layer's operator exists and has the options that are set."""
    if layer.operator not in OPERATORS:
        raise ConfigError("operator", f"must be one of {', '.join(OPERATORS)}", layer.operator)
    try:
        OPERATORS[layer.operator].options(**layer.options)
    except ConfigError as error:
        rule = f"{error.rule} (options of {layer.operator})"
        raise ConfigError(f"options.{error.field}", rule, error.value, error.fix) from None


def resolve(model: Architecture) -> Architecture:
    """Return the model with all options of its operators, missing ones at their default."""
    return model.replace(blocks=tuple(resolve_layer(layer) for layer in model.blocks))


def resolve_layer(layer: L) -> L:
    """Return the layer with all options of its operator, missing ones at their default."""
    options = OPERATORS[layer.operator].options(**layer.options)
    return layer.replace(options=options.to_data())


def canonical(model: Architecture) -> Architecture:
    """Return the model with every ignored field at its default: equal models become equal."""
    return model.replace(blocks=tuple(canonical_layer(layer) for layer in model.blocks))


def canonical_layer(layer: L) -> L:
    """Return the layer with every field that its operator ignores at its default."""
    fields = type(layer).model_fields
    ignored = (OPERATOR_FIELDS - OPERATORS[layer.operator].uses) & fields.keys()
    layer = resolve_layer(layer).replace(**{name: fields[name].default for name in ignored})
    return layer.replace(mask=None if layer.mask is None else layer.mask.canonical())


def digest(run: RunConfig) -> str:
    """Return the hash by which equal trainings are recognised: of the canonical config.

    Fields and options at their defaults are left out, so that a field that is added later changes
    no digest.
    """
    model = canonical(run.model)
    data = _changed(run, "model", "preprocessing")  # which follows from the data
    for name in UNSEEN:
        data.get("data", {}).pop(name, None)
    if not data.get("data", True):
        del data["data"]
    data["model"] = _changed(model, "blocks")
    data["model"]["blocks"] = [_changed_layer(layer) for layer in model.blocks]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _changed(config: Config, *without: str) -> dict[str, Any]:
    """Return the fields of a config that are not at their defaults, as plain data."""
    return config.model_dump(mode="json", exclude_defaults=True, exclude={*without})


def _changed_layer(layer: LayerChoice) -> dict[str, Any]:
    options = OPERATORS[layer.operator].options(**layer.options)
    return {**_changed(layer, "options"), "options": _changed(options)}


def _written_out(data: object) -> object:
    """Return a run's data with a backbone's one choice for all layers repeated for each."""
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(model, dict) or "backbone" not in model:
        return data
    choice = model.get("blocks")
    if not isinstance(choice, str | dict):
        return data
    with _section("model"):
        stock = {name: value for name, value in model.items() if name != "blocks"}
        num_layers = len(sites_of(StockBackbone.from_data(stock)).layers)
    return {**data, "model": {**model, "blocks": [choice] * num_layers}}


@contextmanager
def _section(name: str) -> Iterator[None]:
    """Begin the field of an error with the section of the config that it is in."""
    try:
        yield
    except ConfigError as error:
        field = ".".join(part for part in (name, error.field) if part)
        raise ConfigError(field, error.rule, error.value, error.fix) from None
