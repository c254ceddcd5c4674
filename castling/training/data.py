"""The images of a training, in memory or streamed; those for tests are loaded apart."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from castling.config import (
    DEFAULT_TASK,
    Architecture,
    AugmentConfig,
    DataConfig,
    Preprocessing,
    RunConfig,
)
from castling.data import DATASETS, Dataset
from castling.data.arrays import Split
from castling.data.batches import Batches
from castling.data.dataset import DatasetInfo
from castling.data.index import IndexFile
from castling.data.labels import check_labels
from castling.data.memory import InMemoryBatches
from castling.data.pack import packed
from castling.data.pictures import IndexedPictures
from castling.data.selection import Selection
from castling.data.statistics import Statistics, statistics, streamed_statistics
from castling.data.streamed import StreamedBatches, Workers
from castling.errors import ConfigError, DataError
from castling.scratch import scratch_folder
from castling.surroundings import cache_home
from castling.tasks import TASKS
from castling.training.preprocessing import crop_of, needs_statistics, with_statistics
from castling.untrusted.memory import available_bytes


LARGEST_IN_MEMORY = 2**30
"""Largest size of decoded images in bytes that `data.cache: auto` holds in memory."""
SHARE_OF_MEMORY = 0.1
"""Largest part of the free memory that they may be, for all trainings of this machine together."""
MOST_HELD_OUT = 10_000
"""Validation images that are drawn from the training images at most."""
MOST_FOR_TESTS = 50_000
"""Test images that are drawn from the training images at most; as many as ImageNet's."""
PACKED_SIDE = 256
"""Pixels of the shorter side of pictures that `data.cache: disk` stores."""
Images = Split | Selection
"""In memory, or to be decoded whenever they are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Training and validation images with the transform that all evaluations apply."""

    name: str
    train: Images
    validation: Images
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    """With the mean and standard deviation that normalise the images."""

    @property
    def statistics(self) -> Statistics:
        """Return the mean and standard deviation that normalise the images."""
        return Statistics(mean=self.preprocessing.mean, std=self.preprocessing.std)


def load_data(config: DataConfig, model: Architecture, task: str = DEFAULT_TASK) -> TrainingData:
    """Return `training_data` of a run with the usual training."""
    return training_data(RunConfig(model=model, data=config, task=task))


def training_data(
    run: RunConfig, *, trainings: int = 1, index: IndexFile | None = None
) -> TrainingData:
    """Return the training and validation images of a run, checked against model and task.

    Small data is decoded into memory, once; of other data no more is decoded than its mean and
    standard deviation need. No test image is read.

    Args:
        run: data, model, task, and what decides about the transform; if it has a `preprocessing`,
            as an exported model's has, that is the transform.
        trainings: that share this machine's memory.
        index: of the images, in the folder of the run or model; None lists them.

    Raises:
        DataError: when files are missing or unreadable, or the images do not fit in memory.
        ConfigError: when there is no such dataset, or the model's image size, channels or outputs
            do not fit it, or normalisation and crop do not.
    """
    config = run.data
    dataset, info = opened(run, index)
    train, validation = _selected(dataset, info, config)
    TASKS[run.task].build(run).begin(train.labels)  # raises where settings do not fit the labels
    pictures = train.has_pictures
    preprocessing = run.preprocessing or crop_of(run, info, pictures=pictures)
    unknown = run.preprocessing is None and needs_statistics(run, pictures=pictures)
    held = _is_held([train, validation], info, run, trainings)
    in_memory = held and not (pictures and run.train.augment.crops_pictures)
    if unknown and (not in_memory or preprocessing.crop_mode == "border"):
        found = _streamed_statistics(train, config, index)
        preprocessing, unknown = with_statistics(preprocessing, found), False
    images: Images = train
    if config.cache == "disk" and pictures:
        images = packed(train, PACKED_SIDE, packs_folder())
    if in_memory:
        images = read = train.read(preprocessing)
        if unknown:
            preprocessing = with_statistics(preprocessing, statistics(read.images))
    return TrainingData(
        name=config.name,
        train=images,
        validation=validation.read(preprocessing) if held else validation,
        classes=info.classes,
        preprocessing=preprocessing,
    )


def _streamed_statistics(
    train: Selection, config: DataConfig, index: IndexFile | None
) -> Statistics:
    """Return mean and deviation of training images, from the index of the run if it has them."""

    def computed() -> Statistics:
        return streamed_statistics(train.source, train.rows, config.name)

    if index is None or not isinstance(train.source, IndexedPictures):
        return computed()
    content = sha256(json.dumps(train.source.image_shape).encode())
    content.update(train.source.rows[train.rows].tobytes())
    return index.statistics(content.hexdigest()[:32], computed)


def packs_folder() -> Path:
    """Return the folder of the packs of `data.cache: disk`, in the user's cache folder."""
    return (cache_home() or scratch_folder()) / "castling" / "packs"


def load_test(config: DataConfig, model: Architecture, task: str = DEFAULT_TASK) -> Images:
    """Return `images_for_tests` of a run with the usual training."""
    return images_for_tests(RunConfig(model=model, data=config, task=task))


def images_for_tests(
    run: RunConfig, preprocessing: Preprocessing | None = None, index: IndexFile | None = None
) -> Images:
    """Return the test images: only for a model that is exported, never during a search.

    Args:
        run: data, model and task.
        preprocessing: the transform, of the training's data; None squashes pictures.
        index: of the images, as of the training.

    Raises:
        DataError: when files are missing or unreadable, or the images do not fit in memory.
        ConfigError: when there is no such dataset, or the model's image size, channels or outputs
            do not fit it.
    """
    config = run.data
    dataset, info = opened(run, index)
    if "test" in info.sizes:
        test = Selection.whole(dataset.open("test"))
    else:
        everything = Selection.whole(dataset.open("train"))
        _, test = everything.hold_out(num_test(len(everything)), config)
    check_labels(test.labels, info, config)
    return test.read(preprocessing) if _is_held([test], info, run, 1) else test


def training_batches(
    data: TrainingData, run: RunConfig, device: torch.device
) -> tuple[Batches, Batches]:
    """Return the batches of the training and of the validation images.

    Raises:
        ConfigError: when the augmentation does not fit the images.
    """
    augment, train = run.train.augment, data.train
    if augment.crops_pictures and isinstance(train, Split):
        train = train.pictures or Selection.whole(train)
    return (
        _batches(train, data.preprocessing, device, run, augment=augment),
        evaluation_batches(data.validation, data.preprocessing, device, run),
    )


def evaluation_batches(
    images: Images, preprocessing: Preprocessing, device: torch.device, run: RunConfig
) -> Batches:
    """Return batches of images that are not augmented."""
    return _batches(images, preprocessing, device, run, augment=None)


def _batches(
    images: Images,
    preprocessing: Preprocessing,
    device: torch.device,
    run: RunConfig,
    *,
    augment: AugmentConfig | None,
) -> Batches:
    if isinstance(images, Split):
        return InMemoryBatches.of(images, preprocessing, device)
    workers = Workers.of(run.data.loader_workers, device)
    return StreamedBatches(images, preprocessing, augment, device, workers)


def _selected(
    dataset: Dataset, info: DatasetInfo, config: DataConfig
) -> tuple[Selection, Selection]:
    """Return the training and the validation images, none decoded."""
    train = Selection.whole(dataset.open("train"))
    if "test" not in info.sizes:
        train, _ = train.hold_out(num_test(len(train)), config)
    if "validation" in info.sizes:
        validation = Selection.whole(dataset.open("validation"))
    else:
        train, validation = train.hold_out(min(MOST_HELD_OUT, math.ceil(len(train) / 4)), config)
    validation = validation.subset(config.num_validation, "data.num_validation", config)
    train = train.subset(config.num_train, "data.num_train", config)
    for split in (train, validation):
        check_labels(split.labels, info, config)
    return train, validation


def num_test(num_images: int) -> int:
    """Return how many images become the test split of a dataset that has none."""
    return max(1, min(MOST_FOR_TESTS, num_images // 5))


def opened(run: RunConfig, index: IndexFile | None = None) -> tuple[Dataset, DatasetInfo]:
    """Return the dataset that a run names, checked against model and task.

    Raises:
        DataError: when files are missing, or an index names other files.
        ConfigError: when there is no such dataset, or the model does not fit it.
    """
    config, model, task = run.data, run.model, run.task
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
    if index is not None:
        dataset.use_index(index)
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


def _is_held(
    selections: Iterable[Selection], info: DatasetInfo, run: RunConfig, trainings: int
) -> bool:
    """Return whether images are held in memory; checked before one of them is read."""
    selections, cache = list(selections), run.data.cache
    _, height, width = info.image_shape
    needed = sum(map(len, selections)) * math.prod(info.image_shape)
    free = available_bytes()
    if cache == "auto":
        return needed <= min(LARGEST_IN_MEMORY, SHARE_OF_MEMORY * free / trainings)
    if cache != "memory":
        return False
    if run.train.augment.crops_pictures and all(part.has_pictures for part in selections):
        preset = run.train.augment.preset
        rule = (
            f"must be auto, disk or off with train.augment.preset {preset}, which crops pictures"
        )
        raise ConfigError("data.cache", f"{rule} at their own size", cache)
    if needed > free:
        raise DataError(
            run.data.name,
            f"needs {needed / 2**30:.1f} GiB of memory at {height} x {width} pixels, more than "
            f"the {free / 2**30:.1f} free here",
            "set data.cache to auto or off, or a smaller model.image_size or data.num_train",
        )
    return True
