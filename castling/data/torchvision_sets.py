"""The dataset `torch:NAME`: one of torchvision's datasets, in the folder `data.path`."""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from castling.data.dataset import DATASETS, SplitName
from castling.data.index import ImageIndex
from castling.data.indexed import IndexedDataset, Part, check_shards, joined
from castling.data.pictures import FileStore, Store
from castling.errors import DataError, first_line, one_line
from castling.untrusted.image_files import REMEDY, upright
from castling.untrusted.packed_names import PackedNames


if TYPE_CHECKING:
    from PIL.Image import Image


Splits = Mapping[SplitName, Mapping[str, Any]]
"""What torchvision's constructor takes for each split."""


def _called(**names: str) -> Splits:
    return {split: {"split": name} for split, name in names.items()}  # type: ignore[misc]


_BY_SWITCH: Splits = {"train": {"train": True}, "test": {"train": False}}
_UNDIVIDED: Splits = {"train": {}}
_TESTED = _called(train="train", test="test")
_VALIDATED = _called(train="train", validation="val")
_ALL = _called(train="train", validation="val", test="test")
ARRAYS: Mapping[str, Splits] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST"), _BY_SWITCH),
    **dict.fromkeys(("QMNIST", "USPS"), _BY_SWITCH),
    **dict.fromkeys(("STL10", "SVHN"), _TESTED),
    "SEMEION": _UNDIVIDED,
}
"""Datasets that are arrays in memory."""
FILES: Mapping[str, Splits] = {
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "RenderedSST2"), _ALL),
    **dict.fromkeys(("Food101", "StanfordCars"), _TESTED),
    **dict.fromkeys(("ImageNet", "Imagenette"), _VALIDATED),
    **dict.fromkeys(("EuroSAT", "SUN397"), _UNDIVIDED),
    "Country211": _called(train="train", validation="valid", test="test"),
}
"""Datasets of image files, which castling decodes itself."""
OF_DIGITS = ("SEMEION", "SVHN", "USPS")
"""Datasets without names of classes, which are the ten digits."""


@DATASETS.register("torch")
class Torchvision(IndexedDataset):
    """torchvision's datasets in the folder data.path; data.download fetches what is missing."""

    argument = "NAME"

    def listed(self, source: str) -> ImageIndex:
        """Return an index of the images of all splits.

        Raises:
            DataError: when torchvision has no such dataset, or `data.path` does not hold it.
        """
        data, tables = self.config.name, self._tables
        classes = _classes(tables["train"], self._argument)
        if self._in_files:
            files = {split: _Files(self._root, table) for split, table in tables.items()}
            for one in files.values():
                one.check(data, skip=self.skips)
            skipped = [(name, "is gone") for one in files.values() for name in one.gone]
            parts = {split: one.part() for split, one in files.items()}
            return joined(source, classes, parts, data=data, skipped=skipped)
        parts = {
            split: _array_part(split, table, number)
            for number, (split, table) in enumerate(tables.items())
        }
        arrays = [(split, *_identity(table)) for split, table in tables.items()]
        return joined(source, classes, parts, data=data, shard_files=arrays)

    def checked(self, index: ImageIndex) -> ImageIndex:
        """Return an index of earlier; DataError when its images are gone or changed."""
        if self._in_files:
            return FileStore(root=self._root, index=index, data=self.config.name).checked()
        now: dict[str, tuple[int, int]] = {
            split: _identity(table) for split, table in self._tables.items()
        }
        return check_shards(index, now, self.config.name)

    def store(self, index: ImageIndex) -> Store:
        """Return what decodes the images."""
        if self._in_files:
            return FileStore(root=self._root, index=index, data=self.config.name)
        return ArrayStore(index=index, data=self.config.name, tables=(*self._tables.values(),))

    @property
    def _in_files(self) -> bool:
        return self._argument in FILES

    @property
    def _root(self) -> Path:
        if self.config.path is None:
            reason = "it needs the folder above torchvision's own"
            raise DataError(self.config.name, reason, "set data.path")
        return self.config.path.expanduser()

    @cached_property
    def _tables(self) -> Mapping[SplitName, Any]:
        """Return torchvision's dataset of every split; DataError when there is none."""
        from torchvision import datasets

        splits = (ARRAYS | FILES).get(self._argument)  # type: ignore[operator]
        if splits is None:
            rule = f"torch:NAME must be one of {', '.join(sorted({*ARRAYS, *FILES}))}"
            raise DataError(
                self.config.name, rule, "choose one, or bring the images as folder:PATH"
            )
        more: dict[str, Any] = {"loader": str} if self._in_files else {}
        if self._argument != "ImageNet":  # whose licence lets nobody download it
            more["download"] = self.config.download
        kind = getattr(datasets, self._argument)
        try:
            return {split: kind(str(self._root), **how, **more) for split, how in splits.items()}
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever its readers of files raise
            where = one_line(str(self._root))
            reason = (
                f"torchvision finds no whole {self._argument} in {where} ({first_line(error)})"
            )
            fix = "set data.path to the folder above it, or data.download to true"
            raise DataError(self.config.name, reason, fix) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayStore(Store):
    """Images in arrays of torchvision's datasets."""

    index: ImageIndex
    data: str
    tables: tuple[Any, ...]
    """A dataset for every one of the index's `shard_files`."""

    def picture(self, number: int, mode: str) -> "Image":
        """Return an image in a mode of Pillow."""
        return upright(self._item(number), mode)

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height."""
        size: tuple[int, int] = self._item(number).size
        return size

    def _item(self, number: int) -> Any:
        table = self.tables[int(self.index.shards[number])]
        try:
            return table[int(self.index.offsets[number])][0]
        except Exception as error:  # noqa: BLE001 - as above
            reason = f"{self.name(number)} is no readable image ({one_line(str(error), 200)})"
            raise DataError(self.data, reason, REMEDY) from None


class _Files:
    """The files of one split, by a dataset whose loader returns their paths."""

    def __init__(self, root: Path, table: Sequence[tuple[str, int]]) -> None:
        self.gone: list[str] = []
        self._found: list[tuple[bytes, int, int, int]] = []
        for path, label in (table[number] for number in range(len(table))):
            name = os.path.relpath(path, root)
            try:
                status = os.stat(path)  # noqa: PTH116 - quicker than a Path, for a million
            except OSError:
                self.gone.append(name)
                continue
            entry = (os.fsencode(name), int(label), status.st_size, status.st_mtime_ns)
            self._found.append(entry)

    def check(self, data: str, *, skip: bool) -> None:
        """Raise DataError when a file is gone, unless it is skipped."""
        if self.gone and not skip:
            reason = f"{one_line(self.gone[0])} is gone"
            raise DataError(data, reason, "restore it, or set data.on_error: skip")

    def part(self) -> Part:
        """Return the files as columns of an index."""
        numbers = np.array([entry[1:] for entry in self._found], np.int64).reshape(-1, 3)
        return Part(
            names=PackedNames.of(entry[0] for entry in self._found),
            labels=numbers[:, 0].astype(np.int32),
            sizes=numbers[:, 1].copy(),
            mtimes=numbers[:, 2].copy(),
        )


def _classes(table: Any, name: str) -> tuple[str, ...]:
    """Return the names of the classes; of ImageNet's its synsets, as class folders have them."""
    if name in OF_DIGITS:
        return tuple("0123456789")
    return tuple(str(one) for one in getattr(table, "wnids", None) or table.classes)


def _labels(table: Any) -> NDArray[np.int32]:
    labels = np.asarray(getattr(table, "targets", getattr(table, "labels", ())))
    if labels.shape != (len(table),):
        labels = np.array([table[number][1] for number in range(len(table))])
    return labels.astype(np.int32)


def _identity(table: Any) -> tuple[int, int]:
    """Return bytes and checksum of the pixels and labels of a dataset of arrays."""
    pixels = np.ascontiguousarray(np.asarray(table.data))
    return pixels.nbytes, zlib.crc32(_labels(table).tobytes(), zlib.crc32(pixels.tobytes()))


def _array_part(split: SplitName, table: Any, number: int) -> Part:
    length = len(table)
    return Part(
        names=PackedNames.of(_names(split, length)),
        labels=_labels(table),
        sizes=np.full(length, np.asarray(table.data).nbytes // max(1, length), np.int64),
        offsets=np.arange(length),
        shards=np.full(length, number, np.int32),
    )


def _names(split: str, length: int) -> Iterator[bytes]:
    for row in range(length):
        yield f"{split}/{row}".encode()
