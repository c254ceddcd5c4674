"""Folders of class folders, with or without folders of splits above them, become an index."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from castling.data.dataset import SPLITS, SplitName
from castling.data.index import ImageIndex, Skipped
from castling.data.splits import SPELLINGS, few
from castling.errors import DataError, one_line
from castling.untrusted.image_folders import (
    Listing,
    Reached,
    check_problems,
    is_hidden,
    list_images,
)
from castling.untrusted.packed_names import PackedNames


@dataclass(slots=True)
class _Folders:
    """Where the splits are; `train` first."""

    splits: dict[SplitName, Path]
    notes: list[str] = field(default_factory=list)


def build_index(root: Path, data: str, source: str, *, skip: bool) -> ImageIndex:
    """List the images of a folder.

    Args:
        root: class folders, or folders of splits with class folders in them.
        data: name of the data, for errors.
        source: of the index.
        skip: whether files that can be no images, and class folders without images, are passed
            over; else they are errors. No file is opened.

    Raises:
        DataError: when there are no images of two classes, splits differ in classes, or something
            is reached twice through links.
    """
    folders = find_splits(root, data)
    reached = Reached(data)
    listings: dict[SplitName, Listing] = {}
    skipped: list[Skipped] = []
    notes = [*folders.notes]
    for split, folder in folders.splits.items():
        listing = list_images(folder, reached)
        prefix = "" if folder == root else f"{folder.name}/"
        if split != "train" and listing.strays and not len(listing.names):
            notes.append(f"{prefix} has images but no class folders, and is not read")
            continue
        if not skip:
            check_problems(folder, listing, data)
        skipped += [Skipped(name=prefix + name, reason=why) for name, why in listing.problems]
        notes += _notes(prefix, listing)
        _check_classes(folder, listing, listings.get("train", listing), data)
        notes += _absent(folder, listing, listings.get("train", listing), data, skip=skip)
        listings[split] = listing
    reached.check_links()
    return _joined(root, folders.splits, listings, source, skipped, notes)


def find_splits(root: Path, data: str) -> _Folders:
    """Return the folders of the splits; of a folder of class folders, it as `train`.

    A folder called train is that of a split where folders are in it, or in those of other splits.

    Raises:
        DataError: when two folders are of one split, or `train` is missing beside others.
    """
    if not root.is_dir():
        reason = f"{one_line(str(root))} is not a folder"
        fix = "give --images FOLDER, or data.name=folder:PATH, of class folders"
        raise DataError(data, reason, fix)
    inside = sorted(_folders_in(root, data))
    named: dict[SplitName, list[Path]] = {}
    for path in inside:
        if (split := SPELLINGS.get(path.name.lower())) is not None:
            named.setdefault(split, []).append(path)
    nested = sorted(path for paths in named.values() for path in paths if _has_folders(path))
    if "train" not in named or not nested:
        if nested and nested == inside:
            there = ", ".join(f"{path.name}/" for path in inside)
            reason = f"{one_line(str(root))} has {there} but no train/"
            raise DataError(data, reason, "add train/ with the same class folders")
        return _Folders({"train": root})
    _check_one_each(root, named, data)
    found = {split: named[split][0] for split in SPLITS if split in named}
    others = [path.name for path in inside if path not in found.values()]
    beside = f"folders beside {found['train'].name}/ are not read: {few(others)}"
    return _Folders(found, [beside] if others else [])


def _check_one_each(root: Path, named: Mapping[SplitName, list[Path]], data: str) -> None:
    """Raise DataError when two folders are of one split."""
    for split, paths in named.items():
        if len(paths) > 1:
            names = " and ".join(f"{path.name}/" for path in paths)
            reason = f"{one_line(str(root))} has {names}, all of them {split} images"
            raise DataError(data, reason, "keep one of them, or join them")


def _folders_in(root: Path, data: str) -> Iterator[Path]:
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not is_hidden(entry.name) and os.path.isdir(entry.path):  # noqa: PTH112
                    yield root / entry.name
    except OSError as error:
        reason = f"{one_line(str(root))} cannot be listed ({error.strerror})"
        raise DataError(data, reason, "make it readable") from None


def _has_folders(path: Path) -> bool:
    """Return whether visible folders are in a folder; one that cannot be listed has none."""
    try:
        return next(_folders_in(path, ""), None) is not None
    except DataError:
        return False


def _check_classes(folder: Path, listing: Listing, train: Listing, data: str) -> None:
    """Raise DataError unless there are two classes, and in other splits those of `train`."""
    where = one_line(str(folder))
    if listing is train and len(listing.classes) < 2:
        reason = f"{where} has no two folders of images"
        fix = "make one folder per class"
        if len(listing.classes) == 1 and _has_folders(inner := folder / listing.classes[0]):
            fix = f"give {one_line(str(inner))}, if the folders in it are the classes"
        raise DataError(data, reason, fix)
    unknown = [name for name in listing.classes if name not in set(train.classes)]
    if unknown:
        reason = f"{where} has classes that the training images lack: {few(unknown)}"
        raise DataError(data, reason, "use the same class folders")


def _absent(
    folder: Path, listing: Listing, train: Listing, data: str, *, skip: bool
) -> Iterator[str]:
    """Yield notes on classes without images; of training images, DataError unless skipped."""
    where = one_line(str(folder))
    if listing is not train:
        absent = [name for name in train.classes if name not in set(listing.classes)]
        if absent:
            yield f"{where} has no images of {_classes(len(absent))}: {few(absent)}"
        return
    if not listing.empty:
        return
    if not skip:
        first = one_line(str(folder / listing.empty[0]))
        fix = "add images, remove the folder, or set data.on_error: skip"
        raise DataError(data, f"the class folder {first} has no images", fix)
    yield f"{_folders_word(len(listing.empty))} without images: {few(listing.empty)}"


def _notes(prefix: str, listing: Listing) -> Iterator[str]:
    """Yield sentences on what lies beside the images."""
    where = f"{prefix}: " if prefix else ""
    if listing.strays:
        yield (
            f"{where}images beside the class folders are not used "
            f"({len(listing.strays):,}): {few(listing.strays)}"
        )
    if listing.others:
        number = sum(count for _, count in listing.others)
        kinds = few([f"{count:,} {suffix}" for suffix, count in listing.others])
        yield f"{where}files that are no images of Pillow's formats ({number:,}): {kinds}"
    if listing.num_hidden:
        yield f"{where}hidden files and folders are passed over ({listing.num_hidden:,})"


def _joined(
    root: Path,
    folders: Mapping[SplitName, Path],
    listings: Mapping[SplitName, Listing],
    source: str,
    skipped: Sequence[Skipped],
    notes: Sequence[str],
) -> ImageIndex:
    """Return the listings of all splits as one index, with the classes of `train`."""
    classes = listings["train"].classes
    numbers = {name: number for number, name in enumerate(classes)}
    parts = []
    for listing in listings.values():
        of_train = np.array([numbers[name] for name in listing.classes], np.int32)
        parts.append(of_train[listing.labels] if len(listing.labels) else listing.labels)
    if folders["train"] == root:
        names = listings["train"].names
    else:
        names = PackedNames.of(
            os.fsencode(folders[split].name) + b"/" + listing.names.raw(number)
            for split, listing in listings.items()
            for number in range(len(listing.names))
        )
    order = [(SPLITS.index(split), listing) for split, listing in listings.items()]
    return ImageIndex(
        source=source,
        classes=classes,
        names=names,
        labels=np.concatenate(parts),
        splits=np.concatenate([np.full(len(one.labels), place, np.int8) for place, one in order]),
        sizes=np.concatenate([one.sizes for _, one in order]),
        mtimes=np.concatenate([one.mtimes for _, one in order]),
        skipped=tuple(skipped),
        notes=tuple(one_line(note) for note in notes),
    )


def _classes(number: int) -> str:
    return f"{number:,} class" + ("es" if number > 1 else "")


def _folders_word(number: int) -> str:
    return f"{number:,} class folder" + ("s" if number > 1 else "")
