"""Sources of images by what a user writes: a folder, or a dataset's name with its argument."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from typing import Any

from castling.config import DataConfig, ModelConfig
from castling.data.dataset import DATASETS
from castling.data.folder import folder_settings
from castling.data.indexed import IndexedDataset
from castling.errors import DataError


EXTRAS: Mapping[str, str] = {"hf": "datasets"}
"""Packages that datasets need beside castling's own, each the extra of that name."""
OPTIONS = ("path", "download", "label_column")
"""Fields of `data` that decide which images a source has."""


def source_name(images: str | Path) -> str:
    """Return the `data.name` of a folder or of a source such as hf:photos, paths absolute."""
    kind, colon, argument = str(images).partition(":")
    if not colon or kind not in DATASETS or Path(images).exists():
        return f"folder:{Path(images).expanduser().absolute()}"
    path = Path(argument).expanduser()
    return f"{kind}:{path.absolute()}" if path.exists() else str(images)


def source_settings(images: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config settings that images ask for: the name of the data and its classes.

    Args:
        images: a folder of class folders, or a source such as hf:photos.
        settings: other settings, such as data.path.

    Raises:
        DataError: when there are no such images.
    """
    name = source_name(images)
    kind, _, argument = name.partition(":")
    if kind == "folder":
        return folder_settings(argument)
    chosen = {field: settings[f"data.{field}"] for field in OPTIONS if f"data.{field}" in settings}
    dataset = DATASETS[kind](DataConfig(name=name, on_error="skip", **chosen), ModelConfig())
    if isinstance(dataset, IndexedDataset):  # what is wrong is said when images are loaded
        return {"data.name": name, "model.num_classes": len(dataset.listed("").classes)}
    if kind == "pack":
        return {"data.name": name, "model.num_classes": len(dataset.info().classes)}
    raise DataError(name, "it has no images of its own", f"use data.name={kind}")


def list_sources() -> Iterator[tuple[str, str, str]]:
    """Yield every dataset: what `data.name` is, what it reads, and what must be installed."""
    for name, kind in DATASETS.items():
        called = f"{name}:{kind.argument}" if kind.argument else name
        summary = (getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
        package = EXTRAS.get(name)
        missing = package is not None and find_spec(package) is None
        needs = f"pip install 'castling-nas[{name}]'" if missing else "-"
        yield called, summary, needs
