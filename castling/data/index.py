"""The index of a dataset of files: name, class, split, size and time of change of every image."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from castling.data.dataset import SPLITS, Rows, SplitName
from castling.data.statistics import Statistics
from castling.errors import CheckpointError, DataError, one_line
from castling.files import write_text
from castling.untrusted.packed_names import PackedNames


INDEX_FILE = "images.safetensors"
"""The index in the folder of a run, of a training, of an export."""
SKIPPED_FILE = "skipped_images.csv"
"""Beside it, for readers: images that are not used, and why."""
VERSION = 1
LARGEST_FACTS = 2**28
"""Bytes of an index file's classes and notes; a million names of skipped files take 100 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An image that is not used, as `data.on_error: skip` has it."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """All images of a dataset, split by split; about 70 bytes beside the name of each."""

    source: str
    """What the index is of: the kind of dataset, and the settings that decide what is listed."""
    classes: tuple[str, ...]
    names: PackedNames
    """Path of each image relative to the root, or its key in a shard."""
    labels: NDArray[np.int32]
    splits: NDArray[np.int8]
    """The split of each, as an index into SPLITS; rising."""
    sizes: NDArray[np.int64]
    """Bytes of each image."""
    mtimes: NDArray[np.int64]
    """When each file was changed, in nanoseconds since 1970; 0 for images within a shard."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where images within a shard begin; empty for images in files of their own."""
    shards: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """The shard of each image, as an index into `shard_files`; empty for files."""
    shard_files: tuple[tuple[str, int, int], ...] = ()
    """Relative path, bytes and time of change of each shard."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences on what was found beside the images."""
    statistics: tuple[tuple[str, Statistics], ...] = ()
    """Mean and deviation of some of the images, each with a key that says of which."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def counts(self) -> dict[SplitName, int]:
        """Return the number of images of every split that has some."""
        counts = np.bincount(self.splits, minlength=len(SPLITS)).tolist()
        return {name: count for name, count in zip(SPLITS, counts, strict=True) if count}

    def rows(self, split: SplitName) -> Rows:
        """Return the images of a split, which are next to one another."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def without(self, skipped: Sequence[tuple[int, str]]) -> "ImageIndex":
        """Return the index without some images, each with the reason."""
        if not skipped:
            return self
        keep = np.ones(len(self), bool)
        keep[[number for number, _ in skipped]] = False
        kept = np.flatnonzero(keep)
        named = tuple(Skipped(name=self.names[number], reason=why) for number, why in skipped)
        return replace(
            self,
            names=PackedNames.of(self.names.raw(number) for number in kept.tolist()),
            labels=self.labels[kept],
            splits=self.splits[kept],
            sizes=self.sizes[kept],
            mtimes=self.mtimes[kept],
            offsets=self.offsets[kept] if len(self.offsets) else self.offsets,
            shards=self.shards[kept] if len(self.shards) else self.shards,
            skipped=(*self.skipped, *named),
        )

    def noted(self, note: str) -> "ImageIndex":
        """Return the index with one more note."""
        return replace(self, notes=(*self.notes, note))

    @property
    def num_bytes(self) -> int:
        """Return the memory that the arrays take."""
        columns = (self.labels, self.splits, self.sizes, self.mtimes, self.offsets, self.shards)
        return self.names.num_bytes + sum(column.nbytes for column in columns)

    def write(self, path: Path) -> None:
        """Write the index to a file, atomically."""
        import torch

        from castling.untrusted.tensor_file import write_tensors

        facts = {
            "source": self.source,
            "classes": self.classes,
            "shard_files": self.shard_files,
            "skipped": [(one.name, one.reason) for one in self.skipped],
            "notes": self.notes,
            "statistics": [(key, one.mean, one.std) for key, one in self.statistics],
        }
        arrays = {name: getattr(self, name) for name in _COLUMNS}
        arrays |= {"characters": self.names.characters, "ends": self.names.ends}
        text = bytearray(json.dumps(facts).encode())  # ASCII, surrogates too
        arrays["facts"] = np.frombuffer(text, np.uint8)
        tensors = {
            name: torch.from_numpy(np.require(array, requirements=["C", "W"]))
            for name, array in arrays.items()
        }
        write_tensors(path, tensors, {"castling_images": str(VERSION)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the index in a file.

        Raises:
            CheckpointError: when it is missing, damaged, or no index.
        """
        from castling.untrusted.tensor_file import read_tensors

        tensors, metadata = read_tensors(path)
        if metadata.get("castling_images") != str(VERSION):
            raise CheckpointError(
                str(path), "it is no index of images of this version of castling"
            )
        try:
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            columns: dict[str, Any] = {
                name: _column(arrays, name, dtype) for name, dtype in _COLUMNS.items()
            }
            names = PackedNames(
                characters=_column(arrays, "characters", np.uint8),
                ends=_column(arrays, "ends", np.int64),
            )
            facts = _column(arrays, "facts", np.uint8)
            index = cls(names=names, **columns, **_facts(facts.tobytes()))
            index.check()
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = f"it is damaged ({one_line(str(error), 200)})"
            raise CheckpointError(str(path), reason) from None
        return index

    def check(self) -> None:
        """Raise ValueError when the arrays do not fit one another."""
        length = len(self)
        lengths = {len(self.names), *(len(getattr(self, name)) for name in _PLAIN)}
        shard_lengths = {len(self.offsets), len(self.shards)}
        if lengths != {length} or shard_lengths not in ({0}, {length}):
            raise ValueError("its columns differ in length")
        for column, number in (
            (self.labels, len(self.classes)),
            (self.splits, len(SPLITS)),
            (self.shards, len(self.shard_files)),
        ):
            if len(column) and not (column.min() >= 0 and column.max() < number):
                raise ValueError("numbers beyond the classes, splits or shards")
        if (np.diff(self.splits) < 0).any() or (self.sizes < 0).any() or (self.offsets < 0).any():
            raise ValueError("splits that mix, or negative sizes")
        self._check_names()

    def _check_names(self) -> None:
        """Raise ValueError when a name is empty or leads out of the folder of the data."""
        ends = np.concatenate([[0], self.names.ends])
        if (np.diff(ends) < 1).any() or ends[-1] != len(self.names.characters):
            raise ValueError("names of no characters")
        paths = [name for name, _, _ in self.shard_files]
        if not self.shard_files:
            starts = self.names.characters[ends[:-1]]
            suspicious = b".." in self.names.characters.tobytes() or (starts == ord("/")).any()
            paths += self.names if suspicious else []
        if any(name.startswith("/") or ".." in name.split("/") for name in paths):
            raise ValueError("a name that leads out of the folder")


_PLAIN: dict[str, Any] = {
    "labels": np.int32, "splits": np.int8, "sizes": np.int64, "mtimes": np.int64
}  # fmt: skip
_COLUMNS = _PLAIN | {"offsets": np.int64, "shards": np.int32}


def _column(arrays: dict[str, NDArray[Any]], name: str, dtype: Any) -> NDArray[Any]:
    array = arrays[name]
    if array.ndim != 1 or array.dtype != dtype:
        raise ValueError(f"{name} is no column of {np.dtype(dtype)}")
    return array


def _facts(text: bytes) -> dict[str, Any]:
    """Return what an index file holds beside arrays; ValueError when it is something else."""
    if len(text) > LARGEST_FACTS:
        raise ValueError(f"facts of more than {LARGEST_FACTS:,} bytes")
    facts = json.loads(text)
    texts = [facts["source"], *facts["classes"], *facts["notes"]]
    texts += [part for pair in facts["skipped"] for part in pair]
    if not all(isinstance(part, str) for part in texts):
        raise ValueError("a name that is no text")
    return {
        "source": facts["source"],
        "classes": tuple(facts["classes"]),
        "shard_files": tuple(
            (str(name), int(size), int(mtime)) for name, size, mtime in facts["shard_files"]
        ),
        "skipped": tuple(Skipped(name=name, reason=reason) for name, reason in facts["skipped"]),
        "notes": tuple(facts["notes"]),
        "statistics": tuple(
            (str(key), Statistics.of(mean, std)) for key, mean, std in facts.get("statistics", ())
        ),
    }


@dataclass(slots=True)
class IndexFile:
    """The index in the folder of a run or model: read where it is, else written once.

    A new run lists its images before its folder is made, so that `write` is a step of its own.
    """

    path: Path
    is_new: bool = False
    """Whether the run begins: what is there is not read."""
    relists: bool = False
    """Whether images are listed anew where they are not those of the file; else it is an error."""
    index: ImageIndex | None = None
    """What was read or built last."""

    def get(
        self,
        source: str,
        data: str,
        build: Callable[[], ImageIndex],
        check: Callable[[ImageIndex], ImageIndex],
    ) -> ImageIndex:
        """Return the index in the file, checked, or build it if there is none of this source.

        Args:
            source: of the index that is needed.
            data: name of the data, for the error.
            build: lists the images.
            check: returns an index that was read, with notes; raises when images have changed.

        Raises:
            DataError: when the file is unreadable.
        """
        if self.index is not None and self.index.source == source:
            return self.index
        if not self.is_new and self.path.is_file():
            try:
                found = ImageIndex.read(self.path)
            except CheckpointError as error:
                fix = "remove it, and the images are listed anew"
                raise DataError(data, f"{self.path} is unreadable, {error.reason}", fix) from None
            with suppress(*([DataError] if self.relists else [])):
                if found.source == source:
                    self.index = check(found)
                    return self.index
        self.index = build()
        return self.index

    def statistics(self, key: str, compute: Callable[[], Statistics]) -> Statistics:
        """Return mean and deviation of some images, of a new index computed and kept in it.

        Args:
            key: which images, decoded how.
            compute: decodes them.
        """
        known = () if self.index is None else self.index.statistics
        for name, found in known:
            if name == key:
                return found
        found = compute()
        if self.index is not None:
            self.index = replace(self.index, statistics=(*known, (key, found)))
        return found

    def write(self, path: Path | None = None) -> None:
        """Write the index, here or to another file, with a list of what is skipped.

        A file that is there stays: it is what the run began with.
        """
        target = path or self.path
        if self.index is None or target.exists():
            return
        self.index.write(target)
        if self.index.skipped:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("image", "reason"))
            rows = ((one_line(one.name), one_line(one.reason)) for one in self.index.skipped)
            writer.writerows(rows)
            write_text(target.with_name(SKIPPED_FILE), text.getvalue())
