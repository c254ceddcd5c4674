"""Class folders listed without cycles of links, in an order that no machine changes."""

import os
import stat
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from castling.errors import DataError, one_line
from castling.untrusted.image_files import REMEDY, image_suffixes
from castling.untrusted.name_order import begins, name_text, parts_of, sort_key
from castling.untrusted.packed_names import PackedNames


SYSTEM_NAMES = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information"}
    | {"lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
"""Files and folders of operating systems, in lower case; names with a dot in front are hidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The images below a folder, sorted by name, numbers in names by size."""

    names: PackedNames
    """Paths relative to the folder."""
    labels: NDArray[np.int32]
    """The class of each, as an index into `classes`."""
    classes: tuple[str, ...]
    """Names of the folders directly in this one that hold images, at any depth."""
    sizes: NDArray[np.int64]
    """Bytes of each file."""
    mtimes: NDArray[np.int64]
    """When each file was changed, in nanoseconds since 1970."""
    problems: tuple[tuple[str, str], ...]
    """Paths of what is called an image and can be none, and why; sorted."""
    strays: tuple[str, ...]
    """Names of images in no class folder, sorted; they are not in `names`."""
    empty: tuple[str, ...]
    """Folders directly in this one without images, sorted."""
    num_hidden: int
    """Hidden files and folders that were passed over."""
    others: tuple[tuple[str, int], ...]
    """Suffixes of files that are no images, and how many of each, the most frequent first."""


@dataclass(slots=True)
class Reached:
    """Real paths of all that was listed, over all splits of the same data."""

    data: str
    """Name of the data, for the error."""
    _above: set[str] = field(default_factory=set)
    """Folders above those listed: a link to one of them leads back here."""
    _folders: dict[str, str] = field(default_factory=dict)
    """Real paths of folders, and how they were reached."""
    _images: set[str] = field(default_factory=set)
    """Real paths of the folders whose images count."""
    _links: dict[str, str] = field(default_factory=dict)
    """Targets of links to files, and the links."""

    def begin(self, root: str) -> None:
        """Record the folders above one that will be listed."""
        self._above.update(str(place) for place in Path(os.path.realpath(root)).parents)

    def add_folder(self, path: str, *, has_images: bool) -> None:
        """Record a folder; DataError when it was reached before."""
        real = os.path.realpath(path)
        if real in self._above:
            raise self._twice(path, real)
        if real in self._folders:
            raise self._twice(path, self._folders[real])
        self._folders[real] = path
        if has_images:
            self._images.add(real)

    def add_link(self, path: str) -> None:
        """Record a link to an image; DataError when another one leads there."""
        real = os.path.realpath(path)
        if real in self._links:
            raise self._twice(path, self._links[real])
        self._links[real] = path

    def check_links(self) -> None:
        """Raise DataError when a link leads to an image that is listed by its own name."""
        suffixes = image_suffixes()
        for target, link in sorted(self._links.items()):
            place, name = os.path.split(target)
            if place in self._images and _suffix(name) in suffixes and not is_hidden(name):
                raise self._twice(link, os.path.join(self._folders[place], name))  # noqa: PTH118

    def _twice(self, path: str, earlier: str) -> DataError:
        reason = f"{one_line(path)} and {one_line(earlier)} are the same, through a link"
        return DataError(self.data, reason, "remove the link, so that each image is there once")


@dataclass(slots=True)
class _Files:
    """The images of one folder, sorted."""

    joined: bytearray = field(default_factory=bytearray)
    """Their names, with NUL behind each."""
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    mtimes: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.sizes)

    def names(self) -> Iterator[bytes]:
        """Yield their names."""
        start = 0
        while start < len(self.joined):
            end = self.joined.index(0, start)
            yield bytes(self.joined[start:end])
            start = end + 1


@dataclass(slots=True)
class _Found:
    """The images of one folder, in the order in which the system lists them."""

    keys: list[str] = field(default_factory=list)
    """Of `sort_key`, which end with the names."""
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    mtimes: "array[int]" = field(default_factory=lambda: array("q"))
    links: list[str] = field(default_factory=list)
    """Paths of those that are links."""

    def add(self, name: str, status: os.stat_result) -> None:
        """Add an image."""
        self.keys.append(sort_key(name_text(name)))
        self.sizes.append(status.st_size)
        self.mtimes.append(status.st_mtime_ns)

    def sorted(self) -> _Files:
        """Return the images sorted by name."""
        files = _Files()
        for number in sorted(range(len(self.keys)), key=self.keys.__getitem__):
            name = self.keys[number].rpartition("\0")[2]
            files.joined += name.encode("utf-8", "surrogateescape") + b"\0"
            files.sizes.append(self.sizes[number])
            files.mtimes.append(self.mtimes[number])
        return files


def image_paths(folder: Path, data: str) -> list[Path]:
    """Return all files in a folder and below that are called images, sorted.

    Those that can be none, such as empty files, are among them: reading them says what is wrong.

    Raises:
        DataError: when a folder cannot be listed, or something is reached twice through links.
    """
    reached = Reached(data)
    listing = list_images(folder, reached, with_strays=True)
    reached.check_links()
    unlisted = [problem for problem in listing.problems if "cannot be listed" in problem[1]]
    for name, reason in unlisted:
        fix = "make it readable or remove it"
        raise DataError(data, f"{one_line(str(folder / name))} {reason}", fix)
    names = [*listing.names]
    if listing.problems:
        names += [name for name, _ in listing.problems]
        names.sort(key=lambda name: sort_key(name_text(name)))
    return [folder / name for name in names]


def check_problems(folder: Path, listing: Listing, data: str) -> None:
    """Raise DataError for the first file that can be no image."""
    for name, reason in listing.problems:
        raise DataError(data, f"{one_line(str(folder / name))} {reason}", REMEDY)


def list_images(folder: Path, reached: Reached, *, with_strays: bool = False) -> Listing:
    """Return the images in the folders of a folder; no file is opened.

    Links are followed, out of the folder too; but each folder and each image is reached in one way
    only. Hidden files and folders are passed over.

    Args:
        folder: the root of class folders.
        reached: what was found in other folders of the same data; it grows.
        with_strays: whether images that lie in the folder itself count, as of the class "".

    Raises:
        DataError: when a folder is reached twice through links.
    """
    walk = _Walk(str(folder), reached, with_strays=with_strays)
    found = {place: walk.files(place) for place in walk.places()}
    return walk.listing(found)


class _Walk:
    """One walk through a folder; relative places end in a slash, the folder itself is empty."""

    def __init__(self, root: str, reached: Reached, *, with_strays: bool) -> None:
        self._root, self._reached, self._with_strays = root, reached, with_strays
        self._suffixes = image_suffixes()
        self._waiting = [""]
        self._problems: list[tuple[str, str]] = []
        self._others: Counter[str] = Counter()
        self._num_hidden = 0
        self._tops: list[str] = []
        self._strays: tuple[str, ...] = ()

    def places(self) -> Iterator[str]:
        """Yield every folder once, sorted within its own; `files` lists it."""
        self._reached.begin(self._root)
        while self._waiting:
            yield self._waiting.pop()

    def files(self, place: str) -> _Files:
        """Return the images of a folder, and let the walk go on into its folders."""
        path = f"{self._root}/{place}" if place else self._root
        counts = bool(place) or self._with_strays
        self._reached.add_folder(path.rstrip("/") or "/", has_images=counts)
        found, folders = _Found(), []
        try:
            with os.scandir(path) as entries:
                for entry in entries:  # not all at once, which may be a million
                    if is_hidden(entry.name):
                        self._num_hidden += 1
                    elif entry.is_dir(follow_symlinks=False) or (
                        entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112
                    ):
                        folders.append(f"{place}{entry.name}/")
                    elif (status := self._image(place, entry, found)) is not None:
                        found.add(entry.name, status)
        except OSError as error:
            reason = f"cannot be listed ({error.strerror})"
            self._problems.append((place.rstrip("/") or ".", reason))
        for link in sorted(found.links):
            self._reached.add_link(link)
        folders.sort()
        self._waiting += reversed(folders)
        self._tops += [] if place else folders
        files = found.sorted()
        if counts:
            return files
        self._strays = tuple(map(os.fsdecode, files.names()))
        return _Files()

    def _image(self, place: str, entry: os.DirEntry[str], found: _Found) -> os.stat_result | None:
        """Return the status of a file that may be an image; of another, record what it is."""
        suffix = _suffix(entry.name)
        if suffix not in self._suffixes:
            self._others[suffix or "no suffix"] += 1
            return None
        status, reason = None, ""
        try:
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                reason = "is no regular file"
            elif not status.st_size:
                reason = "is no readable image (it is empty)"
            elif entry.is_symlink():
                found.links.append(entry.path)
        except OSError as error:
            reason = f"is no readable image ({error.strerror})"
        if reason:
            self._problems.append((f"{place}{entry.name}", reason))
            return None
        return status

    def listing(self, found: dict[str, _Files]) -> Listing:
        """Return all folders' images in one order."""
        tops = sorted(
            {place.partition("/")[0] for place, files in found.items() if len(files)},
            key=lambda name: sort_key(name_text(name)),
        )
        numbers = {name: number for number, name in enumerate(tops)}
        labels, sizes, mtimes = array("i"), array("q"), array("q")
        packed = PackedNames.of(
            _gathered(found, numbers, labels=labels, sizes=sizes, mtimes=mtimes)
        )
        return Listing(
            names=packed,
            labels=np.frombuffer(labels, np.int32),
            classes=tuple(_class_name(name) for name in tops),
            sizes=np.frombuffer(sizes, np.int64),
            mtimes=np.frombuffer(mtimes, np.int64),
            problems=tuple(sorted(self._problems)),
            strays=self._strays,
            empty=tuple(name for top in self._tops if (name := top.rstrip("/")) not in numbers),
            num_hidden=self._num_hidden,
            others=tuple(sorted(self._others.items(), key=lambda item: (-item[1], item[0]))),
        )


def _gathered(
    found: dict[str, _Files],
    numbers: dict[str, int],
    *,
    labels: "array[int]",
    sizes: "array[int]",
    mtimes: "array[int]",
) -> Iterator[bytes]:
    """Yield the paths of all images in the order of `sort_key`, and fill the other columns."""
    for places in _groups([place for place, files in found.items() if len(files)]):
        items: Iterable[tuple[bytes, str, int]] = (
            (os.fsencode(place) + name, place, index)
            for place in places
            for index, name in enumerate(found[place].names())
        )
        if len(places) > 1:  # folders in one another, or that differ in case: their files mix
            items = sorted(items, key=lambda item: sort_key(name_text(os.fsdecode(item[0]))))
        for name, place, index in items:
            labels.append(numbers[place.partition("/")[0]])
            sizes.append(found[place].sizes[index])
            mtimes.append(found[place].mtimes[index])
            yield name
        for place in places:
            del found[place]


def _groups(places: list[str]) -> Iterator[list[str]]:
    """Yield folders in the order of their files, those together whose files mix.

    The files of two folders mix where one's name begins the other's, as `sort_key` sees names.
    """
    parts = {place: parts_of(name_text(place)) for place in places}
    group: list[str] = []
    for place in sorted(places, key=lambda place: sort_key(name_text(place))):
        if group and not begins(parts[group[0]], parts[place]):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or the operating system's own."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - quicker than a Path, for a million


def _class_name(name: str) -> str:
    """Return a name that can be written: bytes that are no UTF-8 as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
