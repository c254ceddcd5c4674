"""Datasets whose images an index lists: what class folders, shards and tables have in common."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from castling.config import Architecture, DataConfig
from castling.data.dataset import SPLITS, Dataset, DatasetInfo, SplitName
from castling.data.findings import Findings
from castling.data.index import ImageIndex, IndexFile, Skipped
from castling.data.pictures import IndexedPictures, Store, picture_shape, unreadable
from castling.errors import DataError, one_line
from castling.untrusted.packed_names import PackedNames


MOST_MEASURED = 2_000
"""Headers that are read to say how large the images are; of more images, evenly chosen ones."""
MOST_NAMED = 3
"""Skipped images that are named on the terminal; all of them are in the run folder."""


class IndexedDataset(Dataset):
    """Pictures of any size in an index; a subclass lists, checks and decodes them.

    Findings, splits, `data.on_error` and the index in a run's folder are the same for all.
    """

    def __init__(self, config: DataConfig, model: Architecture) -> None:
        """Say where the images are; they are listed when they are needed.

        Raises:
            ConfigError: when the model's channels are neither grey nor colour.
        """
        super().__init__(config, model)
        kind, _, self._argument = config.name.partition(":")
        self._kind = kind
        self._shape = picture_shape(model, f"{kind}:")
        self._file: IndexFile | None = None
        self._found: ImageIndex | None = None

    @abstractmethod
    def listed(self, source: str) -> ImageIndex:
        """Return an index of all images; decode none.

        Args:
            source: of the index.

        Raises:
            DataError: when there are none of two classes, or no training images.
        """

    @abstractmethod
    def checked(self, index: ImageIndex) -> ImageIndex:
        """Return an index of earlier, perhaps with a note; DataError if its images changed."""

    @abstractmethod
    def store(self, index: ImageIndex) -> Store:
        """Return what decodes the images of an index."""

    @property
    def skips(self) -> bool:
        """Return whether images that cannot be used are passed over."""
        return self.config.on_error == "skip"

    def use_index(self, file: IndexFile) -> None:
        """Take the images of an index in place of listing them."""
        self._file, self._found = file, None

    def info(self) -> DatasetInfo:
        """Return shape, classes and sizes.

        Raises:
            DataError: as `listed`, or when images of an index are gone or changed.
        """
        index = self._index()
        return DatasetInfo(image_shape=self._shape, classes=index.classes, sizes=index.counts)

    def open(self, split: SplitName) -> IndexedPictures:
        """Return the images of a split."""
        index = self._index()
        return self._pictures(index, index.rows(split))

    def findings(self) -> Findings:
        """Return what was skipped, what else was found, and how large images are."""
        index = self._index()
        store, step = self.store(index), -(-len(index) // MOST_MEASURED)
        sizes = [store.size(number) for number in range(0, len(index), step)]
        widths, heights = zip(*sizes, strict=True)
        return Findings(
            num_skipped=len(index.skipped),
            skipped=tuple(f"{one.name}: {one.reason}" for one in index.skipped[:MOST_NAMED]),
            notes=index.notes,
            widths=(min(widths), max(widths)),
            heights=(min(heights), max(heights)),
            num_measured=len(sizes),
        )

    def _pictures(self, index: ImageIndex, rows: NDArray[np.int64]) -> IndexedPictures:
        return IndexedPictures(store=self.store(index), rows=rows, image_shape=self._shape)

    def _index(self) -> ImageIndex:
        """Return the index: of the run, if it has one, else of what is there now."""
        if self._found is None:
            column = self.config.label_column
            labels = "" if column is None else f", label {column}"
            source = f"{self._kind}, on_error {self.config.on_error}{labels}"
            build = partial(self._built, source)
            if self._file is None:
                self._found = build()
            else:
                self._found = self._file.get(source, self.config.name, build, self.checked)
        return self._found

    def _built(self, source: str) -> ImageIndex:
        index = self.listed(source)
        if self.skips:
            everything = self._pictures(index, np.arange(len(index)))
            bad = unreadable(len(index), everything.picture, self.config.name)
            index = index.without(bad)
        return index


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The images of one split, column by column as `ImageIndex` has them."""

    names: PackedNames
    labels: NDArray[np.int32]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """None stands for 0 everywhere."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    shards: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


def joined(  # noqa: PLR0913 - the columns of an index
    source: str,
    classes: Sequence[str],
    parts: Mapping[SplitName, Part],
    *,
    data: str,
    shard_files: Iterable[tuple[str, int, int]] = (),
    skipped: Iterable[tuple[str, str]] = (),
    notes: Iterable[str] = (),
) -> ImageIndex:
    """Return the images of all splits as one index.

    Raises:
        DataError: when there are no training images, or not of two classes.
    """
    parts = {split: parts[split] for split in SPLITS if split in parts}
    parts = {split: part for split, part in parts.items() if len(part.labels)}
    if "train" not in parts:
        raise DataError(data, "it has no training images", "add some")
    if len(classes) < 2:
        reason = f"it has no two classes, but {one_line(', '.join(classes)) or 'none'}"
        raise DataError(data, reason, "add images of another class")
    splits = [
        np.full(len(part.labels), SPLITS.index(split), np.int8) for split, part in parts.items()
    ]
    mtimes = [
        part.mtimes if len(part.mtimes) else np.zeros(len(part.labels), np.int64)
        for part in parts.values()
    ]
    return ImageIndex(
        source=source,
        classes=tuple(classes),
        names=PackedNames.joined([part.names for part in parts.values()]),
        labels=np.concatenate([part.labels for part in parts.values()]),
        splits=np.concatenate(splits),
        sizes=np.concatenate([part.sizes for part in parts.values()]),
        mtimes=np.concatenate(mtimes),
        offsets=np.concatenate([part.offsets for part in parts.values()]),
        shards=np.concatenate([part.shards for part in parts.values()]),
        shard_files=tuple(shard_files),
        skipped=tuple(Skipped(name=one_line(name), reason=why) for name, why in skipped),
        notes=tuple(one_line(note) for note in notes),
    )


def check_shards(index: ImageIndex, now: Mapping[str, tuple[int, int]], data: str) -> ImageIndex:
    """Return an index of shards or tables; DataError when they are gone or of other sizes.

    Args:
        index: of earlier.
        now: bytes and time of change of those that there are; of a table, rows and fingerprint.
        data: name of the data, for the error.
    """
    changed = [name for name, size, _ in index.shard_files if now.get(name, (-1, 0))[0] != size]
    if changed:
        which = f"{len(changed):,} of {len(index.shard_files):,} parts"
        reason = f"{which} are gone or changed since the run began, the first {changed[0]}"
        raise DataError(data, one_line(reason), "restore them, or begin with another --out")
    newer = sum(now[name][1] != mtime for name, _, mtime in index.shard_files)
    if not newer:
        return index
    return index.noted(f"{newer:,} parts were written anew since the run began, in the same sizes")
