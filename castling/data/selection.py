"""Selects images of a split before any is read: held-out parts and subsets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from castling.config import DataConfig, Preprocessing
from castling.data.arrays import Split
from castling.data.dataset import Images, LabelledImages, Labels, Rows
from castling.data.transforms import evaluation_pixels, is_squash
from castling.errors import ConfigError, DataError


if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Some images of a split; none is read before `read`."""

    source: LabelledImages
    rows: Rows
    """Rising."""

    @classmethod
    def whole(cls, source: LabelledImages) -> "Selection":
        """Return all images of a split."""
        return cls(source=source, rows=np.arange(len(source.labels)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Labels:
        """Return the class of every image."""
        return self.source.labels[self.rows]

    def hold_out(self, num_held_out: int, config: DataConfig) -> tuple["Selection", "Selection"]:
        """Return the images in two parts, the second with so many images.

        Raises:
            DataError: when one of them would be empty.
        """
        rest, held_out = split_rows(self.labels, num_held_out, config)
        return (
            Selection(source=self.source, rows=self.rows[rest]),
            Selection(source=self.source, rows=self.rows[held_out]),
        )

    def subset(self, size: int | None, field: str, config: DataConfig) -> "Selection":
        """Return a class-balanced subset; of size None, everything.

        Args:
            size: number of images.
            field: of the config that asks for it, for the error.
            config: of the data.

        Raises:
            ConfigError: when there are fewer images, or more classes.
        """
        if size is None or size == len(self):
            return self
        if size > len(self):
            rule = f"must be at most {len(self):,} for the data {config.name}"
            raise ConfigError(field, rule, size)
        num_classes = len(np.unique(self.labels)) if self.labels.ndim == 1 else 1
        if size < num_classes:
            rule = f"must be at least {num_classes:,}, the classes of the data {config.name}"
            raise ConfigError(field, rule, size)
        return self.hold_out(size, config)[1]

    @property
    def has_pictures(self) -> bool:
        """Return whether the images have sizes of their own."""
        return hasattr(self.source, "picture")

    def picture(self, index: int) -> "Image":
        """Return one image of Pillow, at its own size where it has one."""
        row = int(self.rows[index])
        if hasattr(self.source, "picture"):
            return self.source.picture(row)
        return _as_picture(self.source.read(np.array([row]))[0])

    def arrays(self, indices: Sequence[int]) -> Images:
        """Return some images as a new array, squashed to the model's size."""
        return self.source.read(self.rows[list(indices)])

    def read(self, preprocessing: Preprocessing | None = None) -> Split:
        """Return the images in memory.

        Args:
            preprocessing: the transform of pictures; None squashes them to the model's size.
        """
        if preprocessing is None or is_squash(preprocessing):
            images = self.source.read(self.rows)
        else:
            transform = evaluation_pixels(preprocessing)
            shape = (len(self), preprocessing.channels, *preprocessing.image_size)
            images = np.empty(shape, np.uint8)
            for index in range(len(self)):
                images[index] = transform(self.picture(index)).numpy()
        pictures = self if self.has_pictures else None
        return Split(images=images, labels=self.labels, pictures=pictures)


def _as_picture(image: NDArray[np.uint8]) -> "Image":
    """Return an image (channel, height, width) as one of Pillow; ConfigError if it has no mode."""
    from PIL import Image

    if image.shape[0] not in (1, 3):
        rule = "must be 1 or 3 for pictures that are cropped"
        raise ConfigError("model.channels", rule, image.shape[0])
    return Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0))


def split_rows(labels: Labels, num_held_out: int, config: DataConfig) -> tuple[Rows, Rows]:
    """Return the rows of images in two parts, drawn with `data.split_seed`, classes balanced.

    Args:
        labels: of all images.
        num_held_out: images of the second part.
        config: seed, and the name for the error.

    Raises:
        DataError: when one of the parts would be empty.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < num_held_out < len(labels):
        reason = f"has too few images to split ({len(labels)})"
        raise DataError(config.name, reason, "add images")
    smaller = min(num_held_out, len(labels) - num_held_out)
    balanced = labels.ndim == 1  # of several classes per image there is no exact balance
    if balanced:
        classes, counts = np.unique(labels, return_counts=True)
        balanced = counts.min() > 1 and smaller >= len(classes)
    rest, held_out = train_test_split(
        np.arange(len(labels)),
        test_size=num_held_out,
        random_state=config.split_seed,
        stratify=labels if balanced else None,
    )
    return np.sort(rest), np.sort(held_out)
