"""The dataset `hf:NAME`: a dataset of Hugging Face, in a folder or on its hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from castling.data.dataset import DATASETS, SplitName
from castling.data.index import ImageIndex
from castling.data.indexed import IndexedDataset, Part, check_shards, joined
from castling.data.pictures import Store
from castling.data.splits import few, splits_of
from castling.errors import DataError, first_line, one_line
from castling.untrusted.image_files import picture_of, read_picture, read_size, size_of
from castling.untrusted.name_order import sort_key
from castling.untrusted.packed_names import PackedNames


if TYPE_CHECKING:
    from PIL.Image import Image


SAVED = ("dataset_dict.json", "state.json")
"""A folder with one of these is what `save_to_disk` wrote."""
USUAL = "label"
"""The column that holds classes where several could."""
NO_LABEL = -1
"""What the hub writes for images without a class."""


@DATASETS.register("hf")
class HuggingFace(IndexedDataset):
    """Datasets of Hugging Face: a folder of save_to_disk, of image files, or a name on the hub."""

    argument = "NAME"

    def listed(self, source: str) -> ImageIndex:
        """Return an index of the rows of all splits.

        Raises:
            DataError: when the dataset cannot be loaded, or has no train split, no column of
                images or of classes, or no names of classes.
        """
        whole, data = self._tables, self.config.name
        named, notes = splits_of(whole, data)
        columns = _columns(whole[named["train"]].features, self.config.label_column, data)
        classes = _classes(whole[named["train"]], columns, data)
        parts: dict[SplitName, Part] = {}
        skipped: list[tuple[str, str]] = []
        for number, (split, name) in enumerate(named.items()):
            labels = _labels(whole[name], columns, classes, data)
            missing = np.flatnonzero(labels == NO_LABEL).tolist()
            if split != "train" and len(missing) == len(labels):
                notes.append(f"{name} has images but no classes, and is not read")
            elif missing and not self.skips:
                reason = f"row {missing[0]:,} of its split {name} has no class"
                raise DataError(data, reason, "give it one, or set data.on_error: skip")
            else:
                skipped += [(f"{name}/{row}", "has no class") for row in missing]
            parts[split] = _part(whole[name], columns[0], name, labels, number)
        tables = [(name, *_identity(whole[name])) for name in named.values()]
        return joined(
            source, classes, parts, data=data, shard_files=tables, skipped=skipped, notes=notes
        )

    def checked(self, index: ImageIndex) -> ImageIndex:
        """Return an index of earlier; DataError when the rows are others."""
        now = {name: _identity(table) for name, table in self._tables.items()}
        return check_shards(index, now, self.config.name)

    def store(self, index: ImageIndex) -> "TableStore":
        """Return what decodes the rows."""
        images = self._tables[index.shard_files[0][0]].features
        column = _columns(images, self.config.label_column, self.config.name)[0]
        tables = tuple(_undecoded(self._tables[name], column) for name, _, _ in index.shard_files)
        return TableStore(index=index, data=self.config.name, tables=tables, column=column)

    @cached_property
    def _tables(self) -> Mapping[str, Any]:
        """Return the splits by their names; DataError when they cannot be loaded."""
        data, path = self.config.name, Path(self._argument).expanduser()
        try:
            import datasets
        except ImportError:
            reason = "it needs the package datasets"
            raise DataError(data, reason, "pip install 'castling-nas[hf]'") from None
        try:
            if any((path / name).is_file() for name in SAVED):
                whole = datasets.load_from_disk(str(path))
            else:
                whole = datasets.load_dataset(str(path) if path.exists() else self._argument)
        except Exception as error:  # noqa: BLE001 - of the library and all that it calls
            reason = f"it cannot be loaded ({type(error).__name__}: {first_line(error)})"
            fix = "give a folder of save_to_disk or of images, or a name on the hub"
            raise DataError(data, reason, fix) from None
        tables = whole if isinstance(whole, dict) else {"train": whole}
        return {name: _flat(table) for name, table in tables.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStore(Store):
    """Images in a column of tables, which every process maps from their files."""

    index: ImageIndex
    data: str
    tables: tuple[Any, ...]
    """In the order of the index's `shard_files`."""
    column: str

    def picture(self, number: int, mode: str) -> "Image":
        """Return an image at its own size, upright."""
        content, path = self._cell(number)
        if content is None:
            return read_picture(Path(path), mode, self.data)
        return picture_of(content, mode, self.name(number), self.data)

    def size(self, number: int) -> tuple[int, int]:
        """Return width and height from an image's header."""
        content, path = self._cell(number)
        if content is None:
            return read_size(Path(path), self.data)
        return size_of(content, self.name(number), self.data)

    def _cell(self, number: int) -> tuple[bytes | None, str]:
        """Return the encoded bytes of an image, or the path of its file."""
        table = self.tables[int(self.index.shards[number])]
        column = table.data.column(self.column)
        cell = column[int(self.index.offsets[number])].as_py() or {}
        content, path = cell.get("bytes"), cell.get("path")
        return (b"" if content is None and not path else content), path or ""


def _flat(table: Any) -> Any:
    """Return a table whose rows are where its files have them."""
    return table if table._indices is None else table.flatten_indices()  # noqa: SLF001


def _undecoded(table: Any, column: str) -> Any:
    from datasets import Image

    return table.cast_column(column, Image(decode=False))


def _identity(table: Any) -> tuple[int, int]:
    """Return the number of rows and the fingerprint of a table."""
    return table.num_rows, int(table._fingerprint[:15], 16)  # noqa: SLF001 - datasets has no other


def _columns(features: Mapping[str, Any], chosen: str | None, data: str) -> tuple[str, str]:
    """Return the columns of images and of classes; DataError unless it is clear which."""
    from datasets import ClassLabel, Image, Value

    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    if len(images) != 1 and "image" not in images:
        reason = f"it must have one column of images, got {few(images) or 'none'}"
        fix = "remove the others" if images else f"cast one of its columns, {few(features)}"
        raise DataError(data, f"{reason} of {few(features)}", fix)
    image = "image" if "image" in images else images[0]
    if chosen is not None:
        if not isinstance(features.get(chosen), ClassLabel | Value):
            reason = f"it has no column of classes {one_line(chosen)}, but {few(features)}"
            raise DataError(data, reason, "correct data.label_column")
        return image, chosen
    labels = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    labels = labels or [name for name in features if name == USUAL]
    if len(labels) != 1 and USUAL not in labels:
        reason = f"it has no label column among {few(features)}"
        if labels:
            reason = f"it has several label columns, {few(labels)}"
        raise DataError(data, reason, "name one in data.label_column")
    return image, USUAL if USUAL in labels else labels[0]


def _classes(table: Any, columns: tuple[str, str], data: str) -> tuple[str, ...]:
    """Return the names of the classes; DataError when there are none."""
    from datasets import ClassLabel

    kind = table.features[columns[1]]
    if isinstance(kind, ClassLabel):
        return tuple(kind.names)
    if kind.dtype not in ("string", "large_string"):
        reason = f"its column {columns[1]} has classes without names ({kind.dtype})"
        raise DataError(data, reason, "cast it to ClassLabel(names=[...])")
    names = {name for name in table.data.column(columns[1]).unique().to_pylist() if name}
    return tuple(sorted(names, key=sort_key))


def _labels(
    table: Any, columns: tuple[str, str], classes: tuple[str, ...], data: str
) -> NDArray[np.int32]:
    """Return the class of every row, NO_LABEL where it has none."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import ClassLabel

    column = table.data.column(columns[1])
    if not isinstance(table.features[columns[1]], ClassLabel):
        names = pa.array(classes, column.type)
        unknown = {*column.unique().to_pylist()} - {*classes, None, ""}
        if unknown:
            reason = f"it has classes that its training images lack: {few(sorted(unknown))}"
            raise DataError(data, reason, "use the same classes")
        column = pc.index_in(column, value_set=names)
    labels = pc.fill_null(column, NO_LABEL).to_numpy().astype(np.int32)
    if len(labels) and (labels.max() >= len(classes) or labels.min() < NO_LABEL):
        reason = f"it has labels beyond its {len(classes)} classes"
        raise DataError(data, reason, "correct the labels")
    return labels


def _part(table: Any, column: str, name: str, labels: NDArray[np.int32], number: int) -> Part:
    """Return the rows of a split that have a class."""
    import pyarrow.compute as pc

    cells = _undecoded(table, column).data.column(column)
    lengths = pc.binary_length(pc.struct_field(cells, "bytes"))
    sizes = pc.fill_null(lengths, 0).to_numpy().astype(np.int64)
    rows = np.flatnonzero(labels != NO_LABEL)
    return Part(
        names=PackedNames.of(_names(name, rows)),
        labels=labels[rows],
        sizes=sizes[rows],
        offsets=rows.astype(np.int64),
        shards=np.full(len(rows), number, np.int32),
    )


def _names(split: str, rows: NDArray[np.int64]) -> Iterator[bytes]:
    for row in rows.tolist():
        yield f"{split}/{row}".encode()
