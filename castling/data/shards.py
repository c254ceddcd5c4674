"""The dataset `wds:PATH`: WebDataset's tar files, read image by image without unpacking them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from castling.data.dataset import DATASETS, SplitName
from castling.data.index import ImageIndex
from castling.data.indexed import IndexedDataset, check_shards, joined
from castling.data.pictures import Store
from castling.data.progress import tracked
from castling.data.samples import Samples, Shard, samples_of
from castling.data.splits import SPELLINGS, few
from castling.errors import DataError, one_line
from castling.untrusted.image_files import picture_of, size_of
from castling.untrusted.image_folders import is_hidden
from castling.untrusted.name_order import sort_key


if TYPE_CHECKING:
    from PIL.Image import Image


CLASS_FILES = ("classnames.txt", "classes.txt")
"""Files beside the shards with a name of a class a line, in the order of the numbers."""
LARGEST_CLASS_FILE = 2**26
"""Bytes of such a file."""


@DATASETS.register("wds")
class Shards(IndexedDataset):
    """WebDataset's tar files: one, or a folder of them; splits by folders or words of names."""

    argument = "PATH"

    def listed(self, source: str) -> ImageIndex:
        """Return an index of the images in all shards; decode none.

        Raises:
            DataError: when there are no shards, no train split, no images, images without class,
                no names of classes, or a shard that is unreadable.
        """
        data, (shards, notes) = self.config.name, self._shards
        if not shards:
            reason = f"{one_line(str(self._path))} has no .tar files"
            raise DataError(data, reason, "give wds:PATH of a tar file or of a folder of them")
        samples = Samples(data=data, skips=self.skips)
        for number, shard in enumerate(tracked(shards, len(shards), f"{data}: listing")):
            samples.add(shard, number, samples_of(shard, self.config.label_column, data))
        classes, parts = samples.columns(self._class_names())
        return joined(
            source,
            classes,
            parts,
            data=data,
            shard_files=[(shard.name, shard.size, shard.mtime) for shard in shards],
            skipped=samples.skipped,
            notes=[*notes, *samples.notes()],
        )

    def checked(self, index: ImageIndex) -> ImageIndex:
        """Return an index of earlier; DataError when shards are gone or of other sizes."""
        now = {shard.name: (shard.size, shard.mtime) for shard in self._shards[0]}
        return check_shards(index, now, self.config.name)

    def store(self, index: ImageIndex) -> "ShardStore":
        """Return what decodes the images."""
        return ShardStore(root=self._root, index=index, data=self.config.name)

    @property
    def _path(self) -> Path:
        return Path(self._argument).expanduser()

    @property
    def _root(self) -> Path:
        return self._path if self._path.is_dir() else self._path.parent

    @cached_property
    def _shards(self) -> tuple[list[Shard], list[str]]:
        """Return the shards of all splits, `train` first, and notes on what is not read."""
        if not self._path.exists():
            reason = f"{one_line(str(self._path))} does not exist"
            raise DataError(self.config.name, reason, "correct the path")
        if not self._path.is_dir():
            return [_shard(self._root, self._path.name, "train")], []
        names = [*_tar_names(self._root, self.config.name)]
        splits = {name: _split_of(name) for name in names}
        if not any(splits.values()):
            splits = dict.fromkeys(names, "train")
        others = [name for name in names if splits[name] is None]
        if names and "train" not in splits.values():
            reason = f"it has no train split, but {few(names)}"
            raise DataError(self.config.name, reason, "call the shards of training images train")
        shards = [_shard(self._root, name, split) for name, split in splits.items() if split]
        order = list(SPELLINGS.values())
        shards.sort(key=lambda shard: order.index(shard.split))  # which keeps the order of names
        return shards, [f"shards of no split are not read: {few(others)}"] if others else []

    def _class_names(self) -> list[str] | None:
        """Return the names of the classes in a file beside the shards."""
        for name in CLASS_FILES:
            path = self._root / name
            if path.is_file():
                with path.open("rb") as file:
                    text = file.read(LARGEST_CLASS_FILE).decode("utf-8", "replace")
                return [line.strip() for line in text.splitlines() if line.strip()]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStore(Store):
    """Images within tar files, each read from where it begins."""

    root: Path
    index: ImageIndex
    data: str

    def picture(self, number: int, mode: str) -> "Image":
        """Return an image at its own size, upright."""
        return picture_of(self._content(number), mode, self.name(number), self.data)

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height from an image's header."""
        return size_of(self._content(number), self.name(number), self.data)

    def name(self, number: int) -> str:
        """Return the path of the shard with the name of the image in it."""
        return str(self.root / self.index.names[number])

    def _content(self, number: int) -> bytes:
        path = self.root / self.index.shard_files[int(self.index.shards[number])][0]
        try:
            with path.open("rb", buffering=0) as file:
                size, offset = int(self.index.sizes[number]), int(self.index.offsets[number])
                return os.pread(file.fileno(), size, offset)
        except OSError as error:
            reason = f"{one_line(str(path))} cannot be read ({error.strerror})"
            raise DataError(self.data, reason, "restore the shard") from None


def _tar_names(root: Path, data: str) -> Iterator[str]:
    """Yield the tar files in a folder and in its folders of splits, sorted; refuse packed ones."""
    folders = [root, *(path for path in root.iterdir() if path.name.lower() in SPELLINGS)]
    paths = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    names = [path.relative_to(root).as_posix() for path in paths if not is_hidden(path.name)]
    for name in sorted(names, key=sort_key):
        if name.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
            reason = f"{one_line(name)} is compressed, so that no image in it can be read alone"
            raise DataError(data, reason, "unpack it to .tar")
        if name.lower().endswith(".tar"):
            yield name


def _split_of(name: str) -> SplitName | None:
    """Return the split of a shard: by its folder, else by a word of its name."""
    folder, _, file = name.rpartition("/")
    words = [folder.lower()] if folder else re.split(r"[^a-z]+", file.lower())
    return next((SPELLINGS[word] for word in words if word in SPELLINGS), None)


def _shard(root: Path, name: str, split: SplitName) -> Shard:
    status = (root / name).stat()
    return Shard(root / name, name, split, status.st_size, status.st_mtime_ns)
