"""The images of a training in memory; those for tests are loaded apart."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from castling.config import DEFAULT_TASK, Architecture, DataConfig
from castling.data import DATASETS, Dataset
from castling.data.arrays import Split
from castling.data.dataset import DatasetInfo
from castling.data.labels import check_labels
from castling.data.selection import Selection
from castling.data.statistics import Statistics, statistics
from castling.errors import ConfigError, DataError
from castling.tasks import TASKS


LARGEST_IN_MEMORY = 8 * 2**30
"""Largest size of decoded images in bytes; more is refused."""
MOST_HELD_OUT = 10_000
"""Validation images that are drawn from the training images at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Training and validation images with the statistics that normalise them."""

    name: str
    train: Split
    validation: Split
    classes: tuple[str, ...]
    statistics: Statistics
    """Of the training images."""


def load_data(config: DataConfig, model: Architecture, task: str = DEFAULT_TASK) -> TrainingData:
    """Return the training and validation images of a dataset, checked against model and task.

    No test image is read. At its peak it takes little more memory than the images.

    Raises:
        DataError: when files are missing or unreadable, or the images do not fit in memory.
        ConfigError: when there is no such dataset, or the model's image size, channels or outputs
            do not fit it.
    """
    dataset, info = _opened(config, model, task)
    train = Selection.whole(dataset.open("train"))
    if "test" not in info.sizes:
        train, _ = train.hold_out(_num_test(train), config)
    if "validation" in info.sizes:
        validation = Selection.whole(dataset.open("validation"))
    else:
        train, validation = train.hold_out(min(MOST_HELD_OUT, math.ceil(len(train) / 4)), config)
    validation = validation.subset(config.num_validation, "data.num_validation", config)
    train = train.subset(config.num_train, "data.num_train", config)
    _check_memory([train, validation], info, config)
    for split in (train, validation):
        check_labels(split.labels, info, config)
    images = train.read()
    return TrainingData(
        name=config.name,
        train=images,
        validation=validation.read(),
        classes=info.classes,
        statistics=statistics(images.images),
    )


def load_test(config: DataConfig, model: Architecture, task: str = DEFAULT_TASK) -> Split:
    """Return the test images: only for a model that is exported, never during a search.

    Raises:
        DataError: when files are missing or unreadable, or the images do not fit in memory.
        ConfigError: when there is no such dataset, or the model's image size, channels or outputs
            do not fit it.
    """
    dataset, info = _opened(config, model, task)
    if "test" in info.sizes:
        test = Selection.whole(dataset.open("test"))
    else:
        everything = Selection.whole(dataset.open("train"))
        _, test = everything.hold_out(_num_test(everything), config)
    check_labels(test.labels, info, config)
    _check_memory([test], info, config)
    return test.read()


def _num_test(train: Selection) -> int:
    """Return how many images become the test split of a dataset that has none."""
    return max(1, len(train) // 5)


def _opened(config: DataConfig, model: Architecture, task: str) -> tuple[Dataset, DatasetInfo]:
    """Return the dataset that a config names, checked against model and task."""
    name, colon, argument = config.name.partition(":")
    kind = DATASETS.get(name)
    if kind is None or bool(kind.argument) != bool(argument) or bool(colon) != bool(argument):
        *others, last = [
            f"{other}:{entry.argument}" if entry.argument else other
            for other, entry in DATASETS.items()
        ]
        rule = f"must be {', '.join(others)} or {last}"
        raise ConfigError("data.name", rule, config.name)
    dataset = kind(config, model)
    info = dataset.info()
    channels, *size = info.image_shape
    for field, needed, got in (
        ("model.image_size", tuple(size), model.image_size),
        ("model.channels", channels, model.channels),
        ("model.num_classes", _num_outputs(info, config, task), model.num_classes),
    ):
        if needed != got:
            raise ConfigError(field, f"must be {needed} for the data {config.name}", got)
    return dataset, info


def _num_outputs(info: DatasetInfo, config: DataConfig, task: str) -> int:
    """Return how many outputs the task needs the model to have for the data."""
    try:
        return TASKS[task].num_outputs(info)
    except ValueError as error:
        fix = "choose other data or another task"
        raise DataError(config.name, f"{error} for the task {task}", fix) from None


def _check_memory(selections: Iterable[Selection], info: DatasetInfo, config: DataConfig) -> None:
    """Raise DataError, before an image is read, when images would take too much memory."""
    _, height, width = info.image_shape
    needed = sum(map(len, selections)) * math.prod(info.image_shape)
    if needed > LARGEST_IN_MEMORY:
        raise DataError(
            config.name,
            f"needs {needed / 2**30:.0f} GiB of memory at {height} x {width} pixels, more than "
            f"the limit of {LARGEST_IN_MEMORY // 2**30}",
            "choose a smaller model.image_size, fewer images or a smaller data.num_train",
        )
