"""The contract of a dataset, its facts and splits, and the registry of all datasets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from castling.config import Architecture, DataConfig
from castling.data.findings import Findings
from castling.registry import Registry


if TYPE_CHECKING:
    from PIL.Image import Image

    from castling.data.index import IndexFile


Images = NDArray[np.uint8]
"""(image, channel, height, width)."""
Labels = NDArray[np.int64] | NDArray[np.bool_]
"""(image), int64: the class of each image, as an index into `DatasetInfo.classes`; of several
labels per image (image, class), bool: whether the image shows the class."""
Rows = NDArray[np.int64]
"""Indices of images within a split."""
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """Facts of a dataset that need no decoded image."""

    image_shape: tuple[int, int, int]
    """Channels, height and width of the images that the dataset returns."""
    classes: tuple[str, ...]
    """Names of the classes; a label is an index into them."""
    is_multilabel: bool = False
    """Whether an image has any number of classes: labels (image, class) of bools."""
    sizes: Mapping[SplitName, int]
    """Number of images in every official split. `train` must be among them; a missing validation
    or test split is drawn from `train`."""


class LabelledImages(Protocol):
    """One split: its labels at once, its images when they are asked for."""

    @property
    def labels(self) -> Labels:
        """Return the class of every image."""

    def read(self, rows: Rows) -> Images:
        """Return the images at these rows as a new array."""


class Pictures(LabelledImages, Protocol):
    """One split whose images are files or encoded bytes of any size, decoded when asked for."""

    def picture(self, row: int) -> "Image":
        """Return an image of its own size, upright, in mode L or RGB as the model's channels are.

        Raises:
            DataError: when it is unreadable.
        """

    def name(self, row: int) -> str:
        """Return what users call the image: its path, or its key in a shard."""


class Dataset(ABC):
    """Labelled images for classification, in splits.

    `DATASETS` maps the name in `data.name`, up to a colon, to the subclass.

    Args:
        config: `name`, `path` and `split_seed` say which images.
        model: its image size and channels are what images of varying size are resized to.
    """

    argument: ClassVar[str] = ""
    """What follows the colon in `data.name`, as errors call it, such as PATH; none by default."""

    def __init__(self, config: DataConfig, model: Architecture) -> None:
        self.config, self.model = config, model

    def use_index(self, file: "IndexFile") -> None:  # noqa: B027 - most datasets have none
        """Take the images of an index in place of listing files; called before all else, or not.

        By default nothing: a dataset of arrays lists no files.
        """

    def findings(self) -> Findings:
        """Return what was found beside images, and the range of their sizes; decode no image.

        Raises:
            DataError: when files are missing or unreadable.
        """
        return Findings()

    @abstractmethod
    def info(self) -> DatasetInfo:
        """Return what the dataset holds; decode no image.

        Raises:
            DataError: when files are missing or unreadable.
        """

    @abstractmethod
    def open(self, split: SplitName) -> LabelledImages:
        """Return a split that `info().sizes` names; test images are read for tests only.

        Raises:
            DataError: when files are missing or unreadable.
        """


DATASETS: Registry[type[Dataset]] = Registry("dataset", entry_points="castling.datasets")
"""Datasets by name; packages add theirs through the entry point group `castling.datasets`."""
