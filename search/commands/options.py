"""Options that several commands share, and the parsing of their values."""

import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from castling.errors import ConfigError
from castling.untrusted.plain_yaml import parse_yaml


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder: a search's --out.")]
ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file of a config, or a folder with one.")
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write; new or empty.")]
MaxMacs = Annotated[str | None, typer.Option(help="Budget of MACs per image: 900k, 1.2M, 1.3G.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="Of torch: cpu, cuda, cuda:1; by default a GPU where there is one."),
]
ImagesOption = Annotated[
    str | None, typer.Option(help="Folder of class folders, or a source: castling data list.")
]
TrainingOption = Annotated[
    str | None,
    typer.Option(help="Training recipe: a name of `castling recipes`, or a YAML file."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set a config field: train.epochs=10."),
]
MaxParams = Annotated[str | None, typer.Option(help="Budget of parameters: 60k, 5.7M.")]
MaxOption = Annotated[
    list[str] | None,
    typer.Option("--max", metavar="METRIC=VALUE", help="Upper bound: train_seconds=60."),
]
MinOption = Annotated[
    list[str] | None, typer.Option("--min", metavar="METRIC=VALUE", help="Lower bound: top1=90%.")
]
ObjectiveOption = Annotated[
    list[str] | None,
    typer.Option(
        "--objective", metavar="METRIC:DIRECTION", help="What to trade off: top1:max, macs:min."
    ),
]


def is_requeued() -> bool:
    """Return whether Slurm has started this job before, which then goes on by itself."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def parse_settings(given: list[str]) -> dict[str, Any]:
    """Return the paths and values of PATH=VALUE arguments, values read as YAML."""
    settings = {}
    for text in given:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ConfigError("--set", "must be PATH=VALUE, such as train.epochs=10", text)
        settings[path] = parse_yaml(value, f"--set {path}")
    return settings


class Bounds(TypedDict):
    """Bounds of `--max` and `--min`: values as text, by metric."""

    max: dict[str, str]
    min: dict[str, str]


def parse_bounds(upper: list[str] | None, lower: list[str] | None) -> Bounds:
    """Return the bounds of the METRIC=VALUE arguments of `--max` and `--min`."""
    from space import budget

    return Bounds(
        max=budget.parse_bounds(upper or [], "--max"),
        min=budget.parse_bounds(lower or [], "--min"),
    )
