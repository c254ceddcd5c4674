"""The dataset `folder:PATH`: images in class folders, resized to the model's image size."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from castling.config import Architecture, DataConfig
from castling.data.dataset import (
    DATASETS,
    Dataset,
    DatasetInfo,
    Images,
    Labels,
    Rows,
    SplitName,
)
from castling.errors import ConfigError, DataError
from castling.untrusted.image_files import find_images, read_image, read_picture


if TYPE_CHECKING:
    from PIL.Image import Image


SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """Files of one split; each is decoded when it is read."""

    paths: tuple[Path, ...]
    labels: Labels
    image_shape: tuple[int, int, int]
    data: str
    """Name of the data, for errors."""

    def picture(self, row: int) -> "Image":
        """Return an image at its own size, in the mode of the model's channels."""
        mode = "L" if self.image_shape[0] == 1 else "RGB"
        return read_picture(self.paths[row], mode, self.data)

    def name(self, row: int) -> str:
        """Return the path of an image."""
        return str(self.paths[row])

    def read(self, rows: Rows) -> Images:
        """Return the images at these rows, decoded and resized."""
        channels, height, width = self.image_shape
        images = np.empty((len(rows), *self.image_shape), np.uint8)
        mode = "L" if channels == 1 else "RGB"
        for image, row in zip(images, rows, strict=True):
            pixels = read_image(self.paths[row], mode, (height, width), self.data)
            image[...] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return images


@DATASETS.register("folder")
class Folder(Dataset):
    """Class folders; or train/ and test/, and perhaps validation/, with class folders in them."""

    argument = "PATH"

    def __init__(self, config: DataConfig, model: Architecture) -> None:
        """List the files.

        Raises:
            ConfigError: when the model's channels are neither grey nor colour.
            DataError: when there are no images of two classes, or the splits differ in classes.
        """
        super().__init__(config, model)
        if model.channels not in (1, 3):
            rule = "must be 1 or 3 for images from a folder"
            raise ConfigError("model.channels", rule, model.channels)
        root = Path(config.name.partition(":")[2]).expanduser()
        self._splits, self._classes = self._listed(_folders(root, config.name))

    def info(self) -> DatasetInfo:
        """Return shape, classes and sizes."""
        return DatasetInfo(
            image_shape=(self.model.channels, *self.model.image_size),
            classes=self._classes,
            sizes={name: len(files.paths) for name, files in self._splits.items()},
        )

    def open(self, split: SplitName) -> ImageFiles:
        """Return the files of a split."""
        return self._splits[split]

    def _listed(
        self, folders: dict[SplitName, Path]
    ) -> tuple[dict[SplitName, ImageFiles], tuple[str, ...]]:
        splits: dict[SplitName, ImageFiles] = {}
        classes: tuple[str, ...] = ()
        reached: dict[str, Path] = {}  # no image is in two splits through a link
        for name, folder in folders.items():
            files, names = find_images(folder, self.config.name, reached)
            _check_classes(folder, names, self.config.name)
            classes = classes or names
            if names != classes:
                raise DataError(
                    self.config.name,
                    f"{name}/ has the classes {names}, train/ has {classes}",
                    "use the same class folders",
                )
            splits[name] = ImageFiles(
                paths=tuple(path for path, _ in files),
                labels=np.array([label for _, label in files], np.int64),
                image_shape=(self.model.channels, *self.model.image_size),
                data=self.config.name,
            )
        return splits, classes


def _folders(root: Path, data: str) -> dict[SplitName, Path]:
    """Return where each split of a folder of images is, `train` first."""
    if not root.is_dir():
        raise DataError(data, f"{root} is not a folder", "give folder:PATH of class folders")
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if "train" not in folders:
        return {"train": root}
    if "test" not in folders:
        reason = f"{root} has train/ but no test/"
        raise DataError(data, reason, "add test/ with the same class folders")
    return folders


def _check_classes(folder: Path, classes: tuple[str, ...], data: str) -> None:
    if len(classes) < 2:
        reason = f"{folder} has no two folders of images"
        raise DataError(data, reason, "make one folder per class")


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
    classes = find_images(train if train.is_dir() else root, name)[1]
    _check_classes(root, classes, name)
    return {"data.name": name, "model.num_classes": len(classes)}
