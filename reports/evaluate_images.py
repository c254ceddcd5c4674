"""Evaluates an exported model on another folder of images, its classes mapped by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from castling.config import DataConfig
from castling.data import DATASETS
from castling.data.dataset import Images, Labels, Rows
from castling.data.selection import Selection
from castling.errors import DataError
from castling.model.check import read_run_config
from castling.model.storage import load
from castling.tasks import TASKS
from castling.training.data import evaluation_batches
from castling.training.device import device_of
from castling.training.evaluation import evaluate_batches
from castling.training.predict import stored_preprocessing


MOST_NAMES = 5
"""Classes that a sentence lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesEvaluation:
    """The metrics of a model on a folder of images."""

    metrics: dict[str, float]
    """The task's, by name."""
    num_images: int
    missing: tuple[str, ...]
    """Classes of the model without images."""

    @property
    def note(self) -> str:
        """One sentence on classes without images; empty if there are none."""
        if not self.missing:
            return ""
        return (
            f"{len(self.missing)} of the model's classes have no images: {_listed(self.missing)}"
        )


class _Relabelled:
    """Pictures of a folder with the numbers that their classes have in a model."""

    def __init__(self, source: Any, numbers: Sequence[int]) -> None:
        self._source, self.labels = source, np.asarray(numbers, np.int64)[source.labels]
        self.picture, self.name = source.picture, source.name

    labels: Labels

    def read(self, rows: Rows) -> Images:
        """Return the images at these rows, squashed to the model's size."""
        images: Images = self._source.read(rows)
        return images


def evaluate_images(
    folder: str | Path, images: str | Path, *, device: str | None = None
) -> ImagesEvaluation:
    """Measure a saved model on class folders of images, prepared as in its training.

    Args:
        folder: exported or trained.
        images: class folders, or test/ (else train/) with them. Their names are those of the
            model's classes; where the model has no names, the folders are its classes in order.
        device: of torch; None takes a GPU where there is one.

    Raises:
        ConfigError: when the model was stored without its preprocessing and its training images
            are gone.
        DataError: when there are no images, or those of a class that the model does not have.
    """
    place, folder = device_of(device), Path(folder)
    run = read_run_config(folder)
    model = load(folder).to(place)
    preprocessing = stored_preprocessing(run)
    name = f"folder:{Path(images).expanduser().absolute()}"
    data = DataConfig(name=name, loader_workers=run.data.loader_workers)
    dataset = DATASETS["folder"](data, run.model)
    info = dataset.info()
    numbers = _numbers(info.classes, preprocessing.classes, run.model.num_classes, name)
    source = _Relabelled(dataset.open("test" if "test" in info.sizes else "train"), numbers)
    changed = run.replace(data=data, preprocessing=preprocessing)
    batches = evaluation_batches(Selection.whole(source), preprocessing, place, changed)
    try:
        metrics = evaluate_batches(TASKS[run.task].build(run), model, batches.in_order())
    finally:
        batches.close()
    found = {*source.labels.tolist()}
    missing = (one for number, one in enumerate(preprocessing.classes) if number not in found)
    return ImagesEvaluation(metrics=metrics, num_images=len(source.labels), missing=tuple(missing))


def _numbers(
    found: tuple[str, ...], classes: tuple[str, ...], num_classes: int, data: str
) -> list[int]:
    """Return the number in a model of each class of a folder, by name."""
    if not classes:
        if len(found) == num_classes:
            return [*range(num_classes)]
        reason = f"has {len(found)} class folders, the model {num_classes} classes without names"
        raise DataError(data, reason, "add preprocessing.classes to the model's config.yaml")
    unknown = tuple(name for name in found if name not in classes)
    if unknown:
        reason = f"has classes that the model does not have: {_listed(unknown)}"
        fix = f"name the folders as the model's classes are: {_listed(classes)}"
        raise DataError(data, reason, fix)
    return [classes.index(name) for name in found]


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
