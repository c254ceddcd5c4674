"""Pictures of any size as splits of a dataset: decoded when asked for, squashed when read."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from castling.config import Architecture
from castling.cores import available_cores
from castling.data.dataset import Images, Labels, Rows
from castling.data.index import ImageIndex
from castling.data.progress import tracked
from castling.errors import ConfigError, DataError, one_line
from castling.untrusted.image_files import read_picture, read_size


if TYPE_CHECKING:
    from PIL.Image import Image


AT_A_TIME = 4_096
"""Images of a check that wait for a thread."""


class PictureSplit(ABC):
    """One split of pictures; a subclass decodes one of them."""

    image_shape: tuple[int, int, int]
    """Channels, height and width of what `read` returns."""

    @property
    @abstractmethod
    def labels(self) -> Labels:
        """Return the classes of every image."""

    @abstractmethod
    def picture(self, row: int) -> "Image":
        """Return an image at its own size, upright, in the mode of the model's channels."""

    @abstractmethod
    def name(self, row: int) -> str:
        """Return what users call an image."""

    @property
    def mode(self) -> str:
        """Return Pillow's name of the model's channels."""
        return "L" if self.image_shape[0] == 1 else "RGB"

    def read(self, rows: Rows) -> Images:
        """Return the images at these rows, decoded and squashed to the model's size."""
        from PIL import Image

        _, height, width = self.image_shape
        images = np.empty((len(rows), *self.image_shape), np.uint8)
        for image, row in zip(images, rows, strict=True):
            picture = self.picture(int(row))
            pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
            image[...] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return images


class Store(ABC):
    """Where the images of an index are, each by its number in the index."""

    index: ImageIndex
    data: str
    """Name of the data, for errors."""

    @abstractmethod
    def picture(self, number: int, mode: str) -> "Image":
        """Return an image at its own size, upright, in a mode of Pillow, L or RGB.

        Raises:
            DataError: when it is unreadable.
        """

    @abstractmethod
    def size(self, number: int) -> tuple[int, int]:
        """Return width and height from an image's header; errors as `picture`."""

    def name(self, number: int) -> str:
        """Return what users call an image."""
        return self.index.names[number]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedPictures(PictureSplit):
    """Images of one split of an index; each is decoded when it is read."""

    store: Store
    rows: Rows
    """Of the split, in the index."""
    image_shape: tuple[int, int, int]

    @property
    def labels(self) -> Labels:
        """Return the class of every image."""
        return self.store.index.labels[self.rows].astype(np.int64)

    def picture(self, row: int) -> "Image":
        """Return an image at its own size, upright, in the mode of the model's channels."""
        return self.store.picture(int(self.rows[row]), self.mode)

    def name(self, row: int) -> str:
        """Return what users call an image."""
        return self.store.name(int(self.rows[row]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStore(Store):
    """Images in files of their own."""

    root: Path
    index: ImageIndex
    data: str

    def picture(self, number: int, mode: str) -> "Image":
        """Return an image at its own size, upright."""
        return read_picture(self.root / self.index.names[number], mode, self.data)

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height from an image's header."""
        return read_size(self.root / self.index.names[number], self.data)

    def name(self, number: int) -> str:
        """Return the path of an image."""
        return str(self.root / self.index.names[number])

    def checked(self) -> ImageIndex:
        """Return the index; DataError when its files are gone or of other sizes."""
        changed, num_newer = [], 0
        root, index = os.fsencode(self.root), self.index
        for number, (size, mtime) in enumerate(
            zip(index.sizes.tolist(), index.mtimes.tolist(), strict=True)
        ):
            try:
                status = os.stat(root + b"/" + index.names.raw(number))  # noqa: PTH116
            except OSError:
                changed.append(number)
                continue
            if status.st_size != size:
                changed.append(number)
            elif status.st_mtime_ns != mtime:
                num_newer += 1
        if changed:
            which = f"{len(changed):,} of the {len(index):,} images in {self.root}"
            first = one_line(index.names[changed[0]])
            reason = f"{which} are gone or changed since the run began, the first {first}"
            raise DataError(self.data, reason, "restore them, or begin with another --out")
        if not num_newer:
            return index
        note = f"{num_newer:,} images were written anew since the run began, in the same sizes"
        return index.noted(note)


def picture_shape(model: Architecture, source: str) -> tuple[int, int, int]:
    """Return the shape of pictures for a model; ConfigError unless they are grey or of colour."""
    if model.channels not in (1, 3):
        rule = f"must be 1 or 3 for images from {source}"
        raise ConfigError("model.channels", rule, model.channels)
    return (model.channels, *model.image_size)


def unreadable(number: int, decode: Callable[[int], object], data: str) -> list[tuple[int, str]]:
    """Return which of some images cannot be decoded, rising, and why; by several threads.

    Args:
        number: of images.
        decode: reads one of them, and raises DataError.
        data: name of the data, for the line of progress.
    """

    def problem(row: int) -> str:
        try:
            decode(row)
        except DataError as error:
            return error.reason
        return ""

    def problems() -> Iterator[str]:
        with ThreadPoolExecutor(available_cores()) as threads:
            for start in range(0, number, AT_A_TIME):
                yield from threads.map(problem, range(start, min(number, start + AT_A_TIME)))

    found = enumerate(tracked(problems(), number, f"checking the images of {data}"))
    return [(row, reason) for row, reason in found if reason]
