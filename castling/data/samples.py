"""The samples of tar files: members with one name and several endings, such as a.jpg and a.cls."""

import json
import tarfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from castling.data.dataset import SplitName
from castling.data.indexed import Part
from castling.data.splits import few
from castling.errors import DataError, one_line
from castling.untrusted.image_files import check_regular, image_suffixes
from castling.untrusted.image_folders import is_hidden
from castling.untrusted.name_order import sort_key
from castling.untrusted.packed_names import PackedNames


LARGEST_LABEL, LARGEST_JSON = 2**12, 2**20
"""Bytes of a .cls and of a .json."""
USUAL = "label"
"""The key in a .json that holds the class."""


class Shard(NamedTuple):
    """A tar file."""

    path: Path
    name: str
    """Relative to the root."""
    split: SplitName
    size: int
    mtime: int
    """When it was changed, in nanoseconds since 1970."""


@dataclass(slots=True)
class Sample:
    """What a tar file holds under one name."""

    key: str
    image: str = ""
    """Name of the image's member, empty if there is none."""
    offset: int = 0
    size: int = 0
    label: str | None = None
    """The class: its number or its name."""
    problem: str = ""
    others: list[str] = field(default_factory=list)
    """Endings of other members."""


def samples_of(shard: Shard, column: str | None, data: str) -> Iterator[Sample]:
    """Yield the samples of a shard: of members next to one another with the same name.

    Args:
        shard: the tar file.
        column: key of the class in a .json; None takes .cls, else the key `label`.
        data: name of the data, for the error.

    Raises:
        DataError: when the file is truncated or no tar file.
    """
    check_regular(shard.path, data)
    suffixes = image_suffixes()
    sample: Sample | None = None
    try:
        with shard.path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would hold all of them
                folder, _, base = member.name.rpartition("/")
                stem, dot, ending = base.partition(".")
                if not member.isreg() or not dot or is_hidden(base):
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = Sample(key)
                if f".{ending.lower()}" in suffixes:
                    _add_image(sample, member)
                else:
                    _add_label(sample, ending.lower(), member, file, column)
            _check_end(file, archive.offset)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        said = one_line(str(error), 200) or type(error).__name__
        reason = f"{one_line(str(shard.path))} is no whole tar file ({said})"
        raise DataError(data, reason, "restore the shard") from None
    if sample is not None:
        yield sample


def _check_end(file: BinaryIO, offset: int) -> None:
    """Raise ValueError unless a tar file ends as all do; tarfile takes half of a head for it."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it ends early")


def _add_image(sample: Sample, member: tarfile.TarInfo) -> None:
    if sample.image:
        sample.problem = "has two images"
    sample.image, sample.offset, sample.size = member.name, member.offset_data, member.size
    if member.sparse is not None:
        sample.problem = "is stored as a sparse file"


def _add_label(
    sample: Sample, ending: str, member: tarfile.TarInfo, file: BinaryIO, column: str | None
) -> None:
    """Take the class of a sample from one of its members, if this is where it stands."""
    limit = {"cls": LARGEST_LABEL, "json": LARGEST_JSON}.get(ending)
    if limit is None or (ending == "cls" and column is not None):
        sample.others.append(ending)
        return
    if ending == "json" and sample.label is not None:
        return
    if member.size > limit:
        sample.problem = f"has a .{ending} of {member.size:,} bytes"
        return
    position = file.tell()
    file.seek(member.offset_data)
    text = file.read(member.size).decode("utf-8", "replace").strip()
    file.seek(position)
    if ending == "cls":
        sample.label = text or None
    elif (found := _in_json(text, column or USUAL)) is not None:
        sample.label = found


def _in_json(text: str, key: str) -> str | None:
    """Return the class that a .json names, None if it names none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = found.get(key) if isinstance(found, dict) else None
    is_class = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) or None if is_class else None


@dataclass(slots=True)
class _Columns:
    """Images of one split, as they are found."""

    names: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    labels: "array[int]" = field(default_factory=lambda: array("i"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    shards: "array[int]" = field(default_factory=lambda: array("i"))

    def part(self, numbers: NDArray[np.int32]) -> Part:
        """Return them with the class of each label that was found."""
        return Part(
            names=PackedNames(
                characters=np.frombuffer(self.names, np.uint8), ends=np.array(self.ends, np.int64)
            ),
            labels=numbers[np.array(self.labels, np.int32)],
            sizes=np.array(self.sizes, np.int64),
            offsets=np.array(self.offsets, np.int64),
            shards=np.array(self.shards, np.int32),
        )


@dataclass(slots=True, kw_only=True)
class Samples:
    """The images and classes of all shards."""

    data: str
    """Name of the data, for errors."""
    skips: bool
    """Whether samples that cannot be used are passed over."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _splits: dict[SplitName, _Columns] = field(default_factory=dict)
    _labels: dict[str, int] = field(default_factory=dict)
    """Classes as the samples name them, in the order in which they were found."""
    _others: Counter[str] = field(default_factory=Counter)
    _num_empty: int = 0
    """Samples without an image."""

    def add(self, shard: Shard, number: int, samples: Iterator[Sample]) -> None:
        """Take the samples of a shard; DataError for one that cannot be used, unless skipped."""
        columns = self._splits.setdefault(shard.split, _Columns())
        for sample in samples:
            self._others.update(sample.others)
            name = f"{shard.name}/{sample.image or sample.key}"
            problem = sample.problem or ("" if sample.label else "has no .cls")
            if not sample.image:
                self._num_empty += 1
            elif not sample.size:
                problem = "is empty"
            elif not problem:
                assert sample.label is not None
                columns.names += name.encode("utf-8", "surrogateescape")
                columns.ends.append(len(columns.names))
                columns.labels.append(self._labels.setdefault(sample.label, len(self._labels)))
                columns.sizes.append(sample.size)
                columns.offsets.append(sample.offset)
                columns.shards.append(number)
            if sample.image and problem:
                if not self.skips:
                    fix = "correct the shard, or set data.on_error: skip"
                    raise DataError(self.data, f"{one_line(name)} {problem}", fix)
                self.skipped.append((name, problem))

    def notes(self) -> list[str]:
        """Return sentences on what else is in the shards."""
        notes = []
        if self._num_empty:
            notes.append(f"samples without an image are not used ({self._num_empty:,})")
        if self._others:
            kinds = few([f"{count:,} .{ending}" for ending, count in self._others.most_common()])
            notes.append(f"members that are neither images nor classes: {kinds}")
        return notes

    def columns(
        self, names: Sequence[str] | None
    ) -> tuple[tuple[str, ...], dict[SplitName, Part]]:
        """Return the classes and the images of all splits.

        Args:
            names: of the classes, by number; None takes the names that the samples have.

        Raises:
            DataError: when there are no images, or classes are numbers without names.
        """
        found = [*self._labels]
        if not found:
            reason = "its tar files have no images of Pillow's formats"
            raise DataError(self.data, reason, "give shards of .jpg and .cls, or of their like")
        classes = self._named(found, names)
        number = {name: place for place, name in enumerate(classes)}
        by_number = names is not None
        places = [
            int(label) if by_number and label not in number else number[label] for label in found
        ]
        table = np.array(places, np.int32)
        return classes, {split: one.part(table) for split, one in self._splits.items()}

    def _named(self, found: list[str], names: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the classes; DataError when they do not fit what was found."""
        numbers = [label for label in found if label.isascii() and label.isdigit()]
        if names is None:
            if len(numbers) == len(found):
                reason = f"its classes are numbers without names ({few(sorted(numbers, key=int))})"
                fix = "write classnames.txt beside the shards, with a name a line"
                raise DataError(self.data, reason, fix)
            return tuple(sorted(found, key=sort_key))
        known = {*names}
        strange = [
            label
            for label in found
            if label not in known and not (label in numbers and int(label) < len(names))
        ]
        if strange or len(known) != len(names):
            reason = f"classnames.txt has {len(names):,} names"
            reason += f" and no {few(strange)}" if strange else ", some of them twice"
            raise DataError(self.data, reason, "write one name a line, in the order of numbers")
        return tuple(names)
