"""Packs: pictures of a dataset, shrunk and decoded once, in a folder that trainings map."""

import hashlib
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from castling.config import Architecture, DataConfig
from castling.data.dataset import (
    DATASETS,
    SPLITS,
    Dataset,
    DatasetInfo,
    Images,
    Labels,
    Rows,
    SplitName,
)
from castling.data.progress import tracked
from castling.data.selection import Selection
from castling.errors import ConfigError, DataError
from castling.files import write_text


if TYPE_CHECKING:
    from PIL.Image import Image


FORMAT = "castling pack 1"
ABOUT, INDEX, PIXELS, NAMES = "pack.json", "index.bin", "pixels.bin", "names.txt"
RECORD = np.dtype(
    [
        *(("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("channels", "<i4")),
        *(("label", "<i4"), ("split", "<i4"), ("crc", "<u4")),
    ]
)
"""One image: where its pixels begin, their shape, its class and split, their checksum."""
REMEDY = "remove it and run castling data pack again"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPictures:
    """One split of a pack; it is mapped by every process that reads it."""

    folder: Path
    rows: Rows
    """Of the split, in the index."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of what `read` returns."""
    _open: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.folder, self.rows, self.image_shape

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(
            ("folder", "rows", "image_shape", "_open"), (*state, {}), strict=True
        ):
            object.__setattr__(self, name, value)

    @property
    def labels(self) -> Labels:
        """Return the class of every image."""
        return self._mapped()[0]["label"][self.rows].astype(np.int64)

    def picture(self, row: int) -> "Image":
        """Return an image in the mode of the model's channels; DataError if it is damaged."""
        from PIL import Image

        index, pixels = self._mapped()
        record = index[self.rows[row]]
        shape = tuple(int(record[name]) for name in ("height", "width", "channels"))
        begin = int(record["offset"])
        image = pixels[begin : begin + int(np.prod(shape))]
        if zlib.crc32(image) != record["crc"]:
            raise DataError(f"pack:{self.folder}", f"{self.name(row)} is damaged in it", REMEDY)
        array = np.array(image).reshape(shape)
        picture = Image.fromarray(array[..., 0] if shape[2] == 1 else array)
        return picture.convert("L" if self.image_shape[0] == 1 else "RGB")

    def name(self, row: int) -> str:
        """Return the path that an image was read from."""
        if "names" not in self._open:
            self._open["names"] = (self.folder / NAMES).read_text(encoding="utf-8").splitlines()
        return str(json.loads(self._open["names"][self.rows[row]]))

    def read(self, rows: Rows) -> Images:
        """Return the images at these rows, squashed to the model's size."""
        from PIL import Image

        images = np.empty((len(rows), *self.image_shape), np.uint8)
        for image, row in zip(images, rows, strict=True):
            size = self.image_shape[:0:-1]
            pixels = np.asarray(self.picture(row).resize(size, Image.Resampling.BICUBIC))
            image[...] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return images

    def _mapped(self) -> tuple[Any, Any]:
        if "pixels" not in self._open:
            about = read_about(self.folder)
            self._open["index"] = np.fromfile(self.folder / INDEX, RECORD)
            self._open["pixels"] = np.memmap(self.folder / PIXELS, np.uint8, "r")
            assert about["images"] == len(self._open["index"])
        return self._open["index"], self._open["pixels"]


@DATASETS.register("pack")
class Pack(Dataset):
    """A pack as a source of its own."""

    argument = "PATH"

    def __init__(self, config: DataConfig, model: Architecture) -> None:
        """Read what is in the pack.

        Raises:
            DataError: when it is no pack, damaged, or older than the files that it was made of.
        """
        super().__init__(config, model)
        if model.channels not in (1, 3):
            raise ConfigError("model.channels", "must be 1 or 3 for a pack", model.channels)
        self._folder = Path(config.name.partition(":")[2]).expanduser().absolute()
        self._about = read_about(self._folder)
        self._splits = np.fromfile(self._folder / INDEX, RECORD)["split"]
        names = (self._folder / NAMES).read_text(encoding="utf-8").splitlines()
        if self._about["root"] and Path(str(self._about["root"])).is_dir():
            paths = [json.loads(name) for name in names]
            if _stamp(paths) != self._about["stamp"]:
                reason = f"its files in {self._about['root']} have changed since it was made"
                raise DataError(config.name, reason, REMEDY)

    def info(self) -> DatasetInfo:
        """Return shape, classes and sizes."""
        counts = {name: int((self._splits == i).sum()) for i, name in enumerate(SPLITS)}
        return DatasetInfo(
            image_shape=(self.model.channels, *self.model.image_size),
            classes=tuple(self._about["classes"]),
            sizes={name: count for name, count in counts.items() if count},
        )

    def open(self, split: SplitName) -> PackedPictures:
        """Return the images of a split."""
        return PackedPictures(
            folder=self._folder,
            rows=np.flatnonzero(self._splits == SPLITS.index(split)),
            image_shape=(self.model.channels, *self.model.image_size),
        )


def read_about(folder: Path) -> dict[str, Any]:
    """Return what a pack says of itself; DataError when it is no whole pack."""
    data = f"pack:{folder}"
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise DataError(data, "it is of another version of castling", REMEDY)
        index = (folder / INDEX).read_bytes()
        digest = hashlib.sha256(index + (folder / NAMES).read_bytes()).hexdigest()
        if digest != about["index"] or (folder / PIXELS).stat().st_size != about["bytes"]:
            raise DataError(data, "it is damaged: files are missing or cut short", REMEDY)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        reason = f"{folder} is no whole pack ({type(error).__name__})"
        raise DataError(
            data, reason, "make one with castling data pack FOLDER --out PATH"
        ) from None
    return dict(about)


def write_pack(
    splits: Mapping[SplitName, Selection],
    classes: tuple[str, ...],
    out: Path,
    *,
    size: int = 256,
    root: str = "",
) -> int:
    """Write pictures as a pack and return how many; one that was interrupted is gone on with.

    It appears under its name when it is whole, and in OUT.partial until then.

    Args:
        splits: pictures of each split.
        classes: names of the classes.
        out: the folder to make.
        size: pixels of the shorter side of what is stored; smaller pictures stay as they are.
        root: folder of the files, whose changes make the pack stale.

    Raises:
        DataError: when a picture is unreadable, or the folder exists.
    """
    if out.exists():
        raise DataError(f"pack:{out}", "the folder exists", "choose another --out or remove it")
    items = [
        (SPLITS.index(split), pictures, row, int(label))
        for split, pictures in splits.items()
        for row, label in enumerate(pictures.labels)
    ]
    paths = [_path(pictures, row) for _, pictures, row, _ in items]
    begun = {"format": FORMAT, "size": size, "root": root, "classes": classes}
    begun |= {"images": len(items), "stamp": _stamp(paths)}
    partial = out.with_name(f"{out.name}.partial")
    done = _gone_on_with(partial, begun)
    names = "".join(f"{json.dumps(path)}\n" for path in paths)
    (partial / NAMES).write_text(names, encoding="utf-8")
    with (partial / PIXELS).open("ab") as pixels, (partial / INDEX).open("ab") as index:
        left = tracked(items[done:], len(items) - done, f"packing {out.name}")
        for split, pictures, row, label in left:
            array = _shrunk(pictures.picture(row), size)
            content = array.tobytes()
            record = (pixels.tell(), *array.shape, label, split, zlib.crc32(content))
            pixels.write(content)
            pixels.flush()  # before the record that counts them
            index.write(np.array([record], RECORD).tobytes())
            index.flush()
        num_bytes = pixels.tell()
    digest = hashlib.sha256((partial / INDEX).read_bytes() + names.encode()).hexdigest()
    write_text(partial / ABOUT, json.dumps({**begun, "bytes": num_bytes, "index": digest}) + "\n")
    partial.rename(out)
    return len(items)


def _gone_on_with(partial: Path, begun: Mapping[str, Any]) -> int:
    """Return how many images an interrupted pack has, cut to these; begin anew if it is other."""
    stored = partial / "begun.json"
    text = json.dumps(begun)
    if partial.is_dir() and (not stored.exists() or stored.read_text() != text):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_text(stored, text)
    for name in (INDEX, PIXELS):
        (partial / name).touch()
    done = (partial / INDEX).stat().st_size // RECORD.itemsize
    index = np.fromfile(partial / INDEX, RECORD, count=done)
    end = 0
    if done:
        last = index[-1]
        shape = [int(last[name]) for name in ("height", "width", "channels")]
        end = int(last["offset"]) + int(np.prod(shape))
    for name, length in ((INDEX, done * RECORD.itemsize), (PIXELS, end)):
        with (partial / name).open("r+b") as file:
            file.truncate(length)
    return done


def packed(selection: Selection, size: int, folder: Path) -> Selection:
    """Return the pictures of a selection from a pack in a folder of packs, made if need be.

    Its name follows from the files, so that changed files make a new one. One process writes it,
    others wait.
    """
    from filelock import FileLock

    shape = selection.arrays([0]).shape[1:]
    paths = [_path(selection, row) for row in range(len(selection))]
    key = json.dumps(
        [_stamp(paths), selection.labels.tolist(), size, shape[0], *_shards(selection)]
    )
    out = folder / hashlib.sha256(key.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):
        if not out.is_dir():
            write_pack({"train": selection}, (), out, size=size)
        read_about(out)
    rows = np.arange(len(selection))
    return Selection.whole(PackedPictures(folder=out, rows=rows, image_shape=shape))


def _path(selection: Selection, row: int) -> str:
    name: str = selection.source.name(int(selection.rows[row]))  # type: ignore[attr-defined]
    return name


def _shards(selection: Selection) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of change of the shards or tables that hold the images."""
    store = getattr(selection.source, "store", None)
    return () if store is None else store.index.shard_files


def _stamp(paths: list[str]) -> str:
    """Return the hash of files' names, sizes and times of change; else of the names alone."""
    found = hashlib.sha256()
    for name in paths:
        try:
            status = Path(name).stat()
            found.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError:
            found.update(f"{name}\n".encode())
    return found.hexdigest()


def _shrunk(picture: "Image", size: int) -> np.ndarray:
    """Return pixels (height, width, channel) whose shorter side is at most `size`."""
    from PIL import Image

    shorter = min(picture.size)
    if shorter > size:
        width, height = (max(1, round(side * size / shorter)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array
