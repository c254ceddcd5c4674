"""The dataset `folder:PATH`: images in class folders, resized to the model's image size."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from castling.config import Architecture, DataConfig
from castling.data.class_folders import build_index
from castling.data.dataset import DATASETS, Dataset, DatasetInfo, SplitName
from castling.data.findings import Findings
from castling.data.index import ImageIndex, IndexFile
from castling.data.pictures import ImageFiles, picture_shape, unreadable
from castling.errors import DataError, one_line
from castling.untrusted.image_files import read_size


MOST_MEASURED = 2_000
"""Headers that are read to say how large the images are; of more images, evenly chosen ones."""
MOST_NAMED = 3
"""Skipped images that are named on the terminal; all of them are in the run folder."""


@DATASETS.register("folder")
class Folder(Dataset):
    """Class folders; or train/, and perhaps val/ and test/, with class folders in them.

    The class of an image is the folder that it is in, directly below the root or the split's
    folder, at any depth: as torchvision has it.
    """

    argument = "PATH"

    def __init__(self, config: DataConfig, model: Architecture) -> None:
        """Say where the images are; they are listed when they are needed.

        Raises:
            ConfigError: when the model's channels are neither grey nor colour.
        """
        super().__init__(config, model)
        self._shape = picture_shape(model, "a folder")
        self._root = Path(config.name.partition(":")[2]).expanduser()
        self._file: IndexFile | None = None
        self._found: ImageIndex | None = None

    def use_index(self, file: IndexFile) -> None:
        """Take the images of an index in place of listing the files."""
        self._file, self._found = file, None

    def info(self) -> DatasetInfo:
        """Return shape, classes and sizes.

        Raises:
            DataError: when there are no images of two classes, the splits differ in classes, or
                images of an index are gone or changed.
        """
        index = self._index()
        return DatasetInfo(image_shape=self._shape, classes=index.classes, sizes=index.counts)

    def open(self, split: SplitName) -> ImageFiles:
        """Return the files of a split."""
        return self._files(self._index(), split)

    def findings(self) -> Findings:
        """Return what was skipped, what else lies in the folder, and how large images are."""
        index = self._index()
        step = -(-len(index) // MOST_MEASURED)
        sizes = [
            read_size(self._root / index.names[number], self.config.name)
            for number in range(0, len(index), step)
        ]
        widths, heights = zip(*sizes, strict=True)
        return Findings(
            num_skipped=len(index.skipped),
            skipped=tuple(f"{one.name}: {one.reason}" for one in index.skipped[:MOST_NAMED]),
            notes=index.notes,
            widths=(min(widths), max(widths)),
            heights=(min(heights), max(heights)),
            num_measured=len(sizes),
        )

    def _files(self, index: ImageIndex, split: SplitName | None) -> ImageFiles:
        return ImageFiles(
            root=self._root,
            index=index,
            rows=np.arange(len(index)) if split is None else index.rows(split),
            image_shape=self._shape,
            data=self.config.name,
        )

    def _index(self) -> ImageIndex:
        """Return the index: of the run, if it has one, else of what is in the folder now."""
        if self._found is None:
            source = f"folder, on_error {self.config.on_error}"
            if self._file is None:
                self._found = self._built(source)
            else:
                self._found = self._file.get(
                    source, self.config.name, lambda: self._built(source), self._unchanged
                )
        return self._found

    def _built(self, source: str) -> ImageIndex:
        skip, data = self.config.on_error == "skip", self.config.name
        index = build_index(self._root, data, source, skip=skip)
        if skip:
            files = self._files(index, None)
            index = index.without(unreadable(len(index), files.picture, data))
        return index

    def _unchanged(self, index: ImageIndex) -> ImageIndex:
        """Return an index of earlier; DataError when its images are gone or of other sizes."""
        changed, num_newer = [], 0
        root = os.fsencode(self._root)
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
            which = f"{len(changed):,} of the {len(index):,} images in {self._root}"
            first = one_line(index.names[changed[0]])
            reason = f"{which} are gone or changed since the run began, the first {first}"
            raise DataError(self.config.name, reason, "restore them, or begin with another --out")
        if not num_newer:
            return index
        note = f"{num_newer:,} images were written anew since the run began, in the same sizes"
        return index.noted(note)


def folder_settings(folder: str | Path) -> dict[str, Any]:
    """Return the config settings that a folder of images asks for: its name and its classes.

    Raises:
        DataError: when it is no folder of class folders.
    """
    root = Path(folder).expanduser().absolute()
    name = f"folder:{root}"
    index = build_index(root, name, "", skip=True)  # what is wrong is said when images are loaded
    return {"data.name": name, "model.num_classes": len(index.classes)}
