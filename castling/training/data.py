"""Image datasets in memory, split three ways: the search sees training and validation only."""

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from castling.config import Architecture, DataConfig
from castling.errors import ConfigError, DataError
from castling.training.image_folder import find_images, read_image


Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
LARGEST_IN_MEMORY = 8 * 2**30
"""Bytes of decoded images that a folder may fill; more does not belong in memory."""


LARGEST_IDX = 2**28
"""Bytes of an IDX file, unpacked; Fashion-MNIST's largest has 47 million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Images (image, channel, height, width) and their classes (image)."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Split":
        """Return the images at these rows."""
        return Split(images=self.images[rows], labels=self.labels[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Training and validation images with the statistics that normalise them."""

    name: str
    train: Split
    validation: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Mean of each channel over the training images, in 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel over the training images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What a loader returns: labelled images, and those set aside by the dataset's makers."""

    development: Split
    test: Split
    classes: tuple[str, ...]
    validation: Split | None = None


def load_data(config: DataConfig, model: Architecture) -> Dataset:
    """Return the training and validation images of a dataset, checked against the model.

    Raises:
        DataError: when files are missing or unreadable.
        ConfigError: when the model's image size, channels or classes are not the data's.
    """
    source = _source(config, model)
    development, validation = source.development, source.validation
    if validation is None:
        held_out = min(10_000, math.ceil(len(development) / 4))
        development, validation = _split(development, held_out, config)
    if config.num_validation is not None:
        validation = _subset(validation, config.num_validation, "data.num_validation", config)
    if config.num_train is not None:
        development = _subset(development, config.num_train, "data.num_train", config)
    scaled = development.images.astype(np.float32) / 255.0
    return Dataset(
        name=config.name,
        train=development,
        validation=validation,
        classes=source.classes,
        mean=tuple(float(value) for value in scaled.mean(axis=(0, 2, 3))),
        std=tuple(max(float(value), 1e-6) for value in scaled.std(axis=(0, 2, 3))),
    )


def load_test(config: DataConfig, model: Architecture) -> Split:
    """Return the test images: only for a model that is exported, never during a search."""
    return _source(config, model).test


def _source(config: DataConfig, model: Architecture) -> _Source:
    name, _, folder = config.name.partition(":")
    if name not in _LOADERS or (name == "folder") != bool(folder):
        raise ConfigError("data.name", "must be digits, fashion-mnist or folder:PATH", config.name)
    source = _LOADERS[name](config, model)
    _check_model(source, model, config.name)
    return source


def _check_model(source: _Source, model: Architecture, name: str) -> None:
    channels, *size = source.test.images.shape[1:]
    for field, needed, got in (
        ("model.image_size", tuple(size), model.image_size),
        ("model.channels", channels, model.channels),
        ("model.num_classes", len(source.classes), model.num_classes),
    ):
        if needed != got:
            raise ConfigError(field, f"must be {needed} for the data {name}", got)


def _rows(split: Split, held_out: int, config: DataConfig) -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.model_selection import train_test_split

    if not 0 < held_out < len(split):
        raise DataError(config.name, f"has too few images to split ({len(split)})", "add images")
    classes, counts = np.unique(split.labels, return_counts=True)
    balanced = counts.min() > 1 and min(held_out, len(split) - held_out) >= len(classes)
    kept, held = train_test_split(
        np.arange(len(split)),
        test_size=held_out,
        random_state=config.split_seed,
        stratify=split.labels if balanced else None,
    )
    return np.sort(kept), np.sort(held)


def _split(split: Split, held_out: int, config: DataConfig) -> tuple[Split, Split]:
    kept, held = _rows(split, held_out, config)
    return split.take(kept), split.take(held)


def _subset(split: Split, size: int, field: str, config: DataConfig) -> Split:
    if size > len(split):
        raise ConfigError(
            field, f"must be at most {len(split):,} for the data {config.name}", size
        )
    num_classes = len(np.unique(split.labels))
    if size < num_classes:
        raise ConfigError(
            field, f"must be at least {num_classes:,}, the classes of the data {config.name}", size
        )
    if size == len(split):
        return split
    return _split(split, size, config)[1]


def _digits(config: DataConfig, _: Architecture) -> _Source:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels; a fifth of them is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * 15).astype(np.uint8)[:, None]
    everything = Split(images=images, labels=bunch.target.astype(np.int64))
    development, test = _split(everything, 360, config)
    return _Source(
        development=development, test=test, classes=tuple(str(name) for name in bunch.target_names)
    )


def _fashion_mnist(config: DataConfig, _: Architecture) -> _Source:
    """Return Zalando's 60,000 + 10,000 images of 28 x 28 pixels from the four IDX files."""
    folder = FASHION_MNIST_FOLDER if config.path is None else config.path
    names = "t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle-boot"
    classes = tuple(names.split())

    def split(prefix: str) -> Split:
        images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
        labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise DataError(
                "fashion-mnist",
                f"{prefix} in {folder} has {len(images)} images but {len(labels)} labels",
                "install the four files anew",
            )
        if labels.max(initial=0) >= len(classes):
            raise DataError(
                "fashion-mnist",
                f"{prefix} in {folder} has labels beyond the {len(classes)} classes",
                "install the four files anew",
            )
        return Split(images=images[:, None], labels=labels.astype(np.int64))

    return _Source(development=split("train"), test=split("t10k"), classes=classes)


def _read_idx(folder: Path, stem: str, num_axes: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes, gzipped or plain."""
    path = next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)
    if path is None:
        raise DataError(
            "fashion-mnist",
            f"{stem}(.gz) is not in {folder}",
            "install Debian's package dataset-fashion-mnist, or set data.path to the folder "
            "of the four IDX files",
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(LARGEST_IDX + 1)
        if len(raw) > LARGEST_IDX:
            raise ValueError(f"over {LARGEST_IDX:,} bytes")  # noqa: TRY301 - as below
        magic, *shape = struct.unpack_from(f">{1 + num_axes}I", raw)
        if magic != 0x0800 + num_axes:
            raise ValueError(f"magic number {magic:#x}")  # noqa: TRY301 - one except names the file
        return np.frombuffer(raw, np.uint8, offset=4 * (1 + num_axes)).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(
            "fashion-mnist", f"{path} is unreadable ({error})", "install the file anew"
        ) from None


def _folder(config: DataConfig, model: Architecture) -> _Source:
    """Return images of class folders through timm, decoded and resized to the model's image size.

    PATH holds train/ and test/ (and perhaps validation/) of class folders; or class folders, of
    which a fifth becomes the test split.
    """
    if model.channels not in (1, 3):
        raise ConfigError(
            "model.channels", "must be 1 or 3 for images from a folder", model.channels
        )
    root = Path(config.name.partition(":")[2]).expanduser()
    if not root.is_dir():
        raise DataError(
            config.name, f"{root} is not a folder", "give folder:PATH of class folders"
        )
    parts = {
        name: root / name for name in ("train", "validation", "test") if (root / name).is_dir()
    }
    if "train" in parts and "test" not in parts:
        raise DataError(
            config.name, f"{root} has train/ but no test/", "add test/ with the same class folders"
        )
    if "train" not in parts:
        everything, classes = _read_folder(root, config, model)
        development, test = _split(everything, max(1, len(everything) // 5), config)
        return _Source(development=development, test=test, classes=classes)
    read = {name: _read_folder(path, config, model) for name, path in parts.items()}
    classes = read["train"][1]
    for name, (_, found) in read.items():
        if found != classes:
            raise DataError(
                config.name,
                f"{name}/ has the classes {found}, train/ has {classes}",
                "use the same class folders",
            )
    return _Source(
        development=read["train"][0],
        test=read["test"][0],
        validation=read["validation"][0] if "validation" in read else None,
        classes=classes,
    )


def folder_settings(folder: str | Path) -> dict[str, Any]:
    """Return the config settings that a folder of images asks for: its name and its classes.

    Raises:
        DataError: when it is no folder of class folders.
    """
    root = Path(folder).expanduser().absolute()
    name = f"folder:{root}"
    if not root.is_dir():
        raise DataError(name, f"{root} is not a folder", "give a folder of class folders")
    train = root / "train"
    _, classes = find_images(train if train.is_dir() else root, name)
    if len(classes) < 2:
        raise DataError(name, f"{root} has no two folders of images", "make one folder per class")
    return {"data.name": name, "model.num_classes": len(classes)}


def _read_folder(
    folder: Path, config: DataConfig, model: Architecture
) -> tuple[Split, tuple[str, ...]]:
    found, classes = find_images(folder, config.name)
    if len(classes) < 2:
        raise DataError(
            config.name, f"{folder} has no two folders of images", "make one folder per class"
        )
    height, width = model.image_size
    needed = len(found) * model.channels * height * width
    if needed > LARGEST_IN_MEMORY:
        raise DataError(
            config.name,
            f"{folder} needs {needed / 2**30:.0f} GiB of memory at {height} x {width} pixels, "
            f"more than the limit of {LARGEST_IN_MEMORY // 2**30}",
            "choose a smaller model.image_size or fewer images",
        )
    images = np.empty((len(found), model.channels, height, width), np.uint8)
    mode = "L" if model.channels == 1 else "RGB"
    for row, (path, _) in enumerate(found):
        pixels = read_image(path, mode, (height, width), config.name)
        images[row] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    labels = np.array([label for _, label in found], np.int64)
    return Split(images=images, labels=labels), classes


_LOADERS: Mapping[str, Callable[[DataConfig, Architecture], _Source]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "folder": _folder,
}
