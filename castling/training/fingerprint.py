"""Fingerprints of the images of a training, by which a later command sees that they changed."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from castling.data.arrays import Split
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


def _names(pictures: Selection) -> list[str]:
    """Return the name of every image within its class folder, with its size in bytes."""
    lines = []
    with_sizes = len(pictures) <= MOST_SIZES
    for row in pictures.rows.tolist():
        path = Path(pictures.source.name(row)) if hasattr(pictures.source, "name") else Path()
        size = path.stat().st_size if with_sizes and path.is_file() else 0
        lines.append(f"{path.parent.name}/{path.name}\0{size}\n")
    return lines


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
