"""The dataset `fashion-mnist`: Zalando's 60,000 + 10,000 images of 28 x 28 pixels."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from castling.data.arrays import Split
from castling.data.dataset import DATASETS, Dataset, DatasetInfo, SplitName
from castling.errors import DataError


FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
LARGEST_IDX = 2**28
"""Bytes of an IDX file, unpacked; Fashion-MNIST's largest has 47 million."""
CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle-boot"),
)
PREFIXES: dict[SplitName, str] = {"train": "train", "test": "t10k"}
IMAGES, LABELS = ("images-idx3-ubyte", 3), ("labels-idx1-ubyte", 1)
"""How the names of the files end, and the axes of the arrays in them."""


@DATASETS.register("fashion-mnist")
class FashionMnist(Dataset):
    """Ten kinds of clothes in grey, from the four IDX files in `data.path`."""

    def info(self) -> DatasetInfo:
        """Return shape, classes and sizes from the heads of the files."""
        sizes: dict[SplitName, int] = {}
        shape = (0, 0)
        for split, prefix in PREFIXES.items():
            (sizes[split], *size), (num_labels,) = (
                self._shape(prefix, kind) for kind in (IMAGES, LABELS)
            )
            if sizes[split] != num_labels:
                counts = f"{sizes[split]} images but {num_labels} labels"
                reason = f"{prefix} in {self._folder} has {counts}"
                raise DataError(self.config.name, reason, "install the four files anew")
            shape = (size[0], size[1])
        return DatasetInfo(image_shape=(1, *shape), classes=CLASSES, sizes=sizes)

    def open(self, split: SplitName) -> Split:
        """Return the training or the test images."""
        prefix = PREFIXES[split]
        images, labels = (self._array(prefix, kind) for kind in (IMAGES, LABELS))
        if labels.max(initial=0) >= len(CLASSES):
            raise DataError(
                self.config.name,
                f"{prefix} in {self._folder} has labels beyond the {len(CLASSES)} classes",
                "install the four files anew",
            )
        return Split(images=images[:, None], labels=labels.astype(np.int64))

    @property
    def _folder(self) -> Path:
        return FASHION_MNIST_FOLDER if self.config.path is None else self.config.path

    def _shape(self, prefix: str, kind: tuple[str, int]) -> tuple[int, ...]:
        """Return the shape of a file's array."""
        with self._opened(prefix, kind[0]) as file:
            return _read_shape(file, kind[1])

    def _array(self, prefix: str, kind: tuple[str, int]) -> NDArray[np.uint8]:
        """Return a file's array."""
        with self._opened(prefix, kind[0]) as file:
            shape = _read_shape(file, kind[1])
            raw = file.read(LARGEST_IDX + 1)
            if len(raw) > LARGEST_IDX:
                raise ValueError(f"over {LARGEST_IDX:,} bytes")
            return np.frombuffer(raw, np.uint8).reshape(shape)

    @contextmanager
    def _opened(self, prefix: str, ending: str) -> Iterator[BinaryIO | gzip.GzipFile]:
        """Open a file, gzipped or plain; what is wrong with it is a DataError that names it."""
        stem, folder = f"{prefix}-{ending}", self._folder
        path = next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)
        if path is None:
            raise DataError(
                self.config.name,
                f"{stem}(.gz) is not in {folder}",
                "install Debian's package dataset-fashion-mnist, or set data.path to the folder "
                "of the four IDX files",
            )
        try:
            with path.open("rb") as file:
                yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
            reason = f"{path} is unreadable ({error})"
            raise DataError(self.config.name, reason, "install the file anew") from None


def _read_shape(file: BinaryIO | gzip.GzipFile, num_axes: int) -> tuple[int, ...]:
    """Return the shape in the head of an IDX file of unsigned bytes."""
    magic, *shape = struct.unpack(f">{1 + num_axes}I", file.read(4 * (1 + num_axes)))
    if magic != 0x0800 + num_axes:
        raise ValueError(f"magic number {magic:#x}")
    return tuple(shape)
