"""Fingerprints of the images of a training, by which a later command sees that they changed."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from castling.data.arrays import Split
from castling.data.pictures import IndexedPictures
from castling.data.selection import Selection
from castling.training.data import Images, TrainingData


MOST_SIZES = 100_000
"""Files whose sizes are read at most; beyond that names and labels are all that is compared."""


def fingerprints(data: TrainingData) -> dict[str, str]:
    """Return the fingerprint of the training and of the validation images."""
    return {"train": fingerprint(data.train), "validation": fingerprint(data.validation)}


def fingerprint(images: Images) -> str:
    """Return the number and a hash of images, such as `1,149 images, 3f2ac1d0`.

    The hash is that of labels and file names, with the files' sizes; of images without names it is
    that of labels and pixels. It depends neither on the folder above the class folders nor on the
    transform.
    """
    content = sha256(images.labels.tobytes())
    if isinstance(images, Split) and images.pictures is None:
        content.update(images.images.tobytes())
    else:
        pictures = images.pictures if isinstance(images, Split) else images
        assert pictures is not None
        for line in _names(pictures):
            content.update(line.encode("utf-8", "surrogateescape"))
    return f"{len(images.labels):,} images, {content.hexdigest()[:8]}"


def _names(pictures: Selection) -> Iterator[str]:
    """Yield the name of every image within its class folder, with its size in bytes."""
    with_sizes = len(pictures) <= MOST_SIZES
    source = pictures.source
    if isinstance(source, IndexedPictures):  # which need not be looked at again
        names, sizes = source.store.index.names, source.store.index.sizes
        for number in source.rows[pictures.rows]:
            yield _line(names[int(number)], int(sizes[number]) if with_sizes else 0)
        return
    for row in pictures.rows:
        name = source.name(int(row)) if hasattr(source, "name") else ""
        is_sized = with_sizes and Path(name).is_file()
        yield _line(name, Path(name).stat().st_size if is_sized else 0)


def _line(name: str, size: int) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder.rpartition('/')[2]}/{file}\0{size}\n"


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return one clause on the images that are not those of before; empty if all are.

    Args:
        before: recorded fingerprints; splits that they lack are not compared.
        now: fingerprints of today's images.
    """
    parts = [
        f"{split} had {_short(before[split])} and has {_short(now[split])}"
        for split in now
        if split in before and before[split] != now[split]
    ]
    return "the images are not those of before: " + "; ".join(parts) if parts else ""


def _short(text: str) -> str:
    number, _, digest = text.rpartition(", ")
    return f"{number} ({digest})"
