"""Folders of images, listed without cycles of links and decoded by this process alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from castling.errors import DataError
from castling.untrusted.plain_yaml import is_endless


if TYPE_CHECKING:
    from PIL.Image import Image as Picture


FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "BLP", "CUR"),
    *("DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "ICNS", "IM", "MCIDAS", "MSP", "PCX"),
    *("PIXAR", "PSD", "QOI", "SGI", "SUN", "XBM", "XPM", "XVTHUMB"),
    *("PCD", "SPIDER", "TGA", "IMT"),  # last: their files do not begin with a mark
)
"""Formats that Pillow decodes by itself, within the size in the file's header."""
REFUSED_FORMATS = {
    "EPS": "Pillow has Ghostscript decode it, whichever is first in PATH",
    "IPTC": "what is inside is opened in any format, EPS too",
    **dict.fromkeys(("BUFR", "GRIB", "HDF5", "WMF"), "another package decodes it"),
    **dict.fromkeys(("FPX", "MIC", "MPEG"), "Pillow has no decoder of its own"),
}
"""Formats that Pillow recognises and castling refuses, and why."""

Images = list[tuple[Path, int]]
"""Files, and the number of the class of each."""


def find_images(
    folder: Path, data: str, reached: dict[str, Path] | None = None
) -> tuple[Images, tuple[str, ...]]:
    """Return the images of a folder with the numbers of their classes, and the classes.

    The class of an image is the name of the folder that it is in, at any depth. Links are
    followed, out of the folder too; but each folder and each image is reached in one way only.

    Args:
        folder: where to begin.
        data: name of the data, for the error.
        reached: what was found in other folders of the same data, by real path; it grows.

    Raises:
        DataError: when a folder cannot be listed, or something is reached twice through links.
    """
    files = sorted(
        _files(folder, data, {} if reached is None else reached),
        key=lambda path: _order(str(path)),
    )
    labels = ["" if path.parent == folder else path.parent.name for path in files]
    classes = tuple(sorted(set(labels), key=_order))
    numbers = {label: number for number, label in enumerate(classes)}
    return [(path, numbers[label]) for path, label in zip(files, labels, strict=True)], classes


def _order(name: str) -> tuple[Any, str]:
    """Return the sort key of names: numbers in them by size, case last."""
    from timm.utils.misc import natural_key

    return natural_key(name), name  # type: ignore[no-untyped-call]


def _files(folder: Path, data: str, reached: dict[str, Path]) -> Iterator[Path]:
    """Yield the files of a folder, and of those below it, whose names are an image's."""
    from timm.data.readers.img_extensions import get_img_extensions

    suffixes = get_img_extensions(as_set=True)  # type: ignore[no-untyped-call]
    for place in Path(os.path.realpath(folder)).parents:
        reached.setdefault(str(place), place)  # who leads there would lead back here
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        _reach(place, data, reached)
        try:
            paths = sorted(place.iterdir())
        except OSError as error:
            reason = f"{place} cannot be listed ({error.strerror})"
            raise DataError(data, reason, "make it readable or remove it") from None
        for path in paths:
            if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for some links
                waiting.append(path)
            elif path.suffix.lower() in suffixes:
                _reach(path, data, reached)
                yield path


def _reach(path: Path, data: str, reached: dict[str, Path]) -> None:
    """Record the real path of a file or folder; DataError when it was reached before."""
    earlier = reached.setdefault(os.path.realpath(path), path)
    if earlier is not path:
        reason = f"{path} and {earlier} are the same, through a link"
        raise DataError(data, reason, "remove the link, so that each image is there once")


def read_image(path: Path, mode: str, size: tuple[int, int], data: str) -> NDArray[np.uint8]:
    """Return an image's pixels (height, width) or (height, width, channel), resized.

    Args:
        path: the file.
        mode: Pillow's, L or RGB.
        size: height and width.
        data: name of the data, for the error.

    Raises:
        DataError: when the file is no regular one, or not of one of the FORMATS.
    """
    from PIL import Image

    picture = read_picture(path, mode, data)
    pixels: NDArray[Any] = np.asarray(picture.resize(size[::-1], Image.Resampling.BICUBIC))
    return pixels


def read_picture(path: Path, mode: str, data: str) -> "Picture":
    """Return an image of Pillow in a mode, L or RGB, at its own size; errors as `read_image`."""
    from PIL import Image

    if is_endless(path):
        raise DataError(data, f"{path} is no regular file", "remove it")
    Image.init()  # its table of formats is empty until then
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        if not path.stat().st_size:  # as the files of /proc have it, some of which never end
            raise OSError("it is empty")  # noqa: TRY301 - one except names the file
        with Image.open(path, formats=formats) as image:
            return upright(image, mode)
    except Exception as error:  # noqa: BLE001 - each of Pillow's decoders raises errors of its own
        reason = f"{path} is no readable image ({_reason(path, error)})"
        raise DataError(data, reason, "remove or replace it") from None


def upright(picture: "Picture", mode: str) -> "Picture":
    """Return a picture as its EXIF data say it is to be seen, in a mode, L or RGB.

    A training reads files so, and a prediction prepares pictures of Pillow so.
    """
    from PIL import ImageOps

    try:
        turned = ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 - whatever malformed EXIF data raise: the pixels are whole
        turned = picture
    return turned.convert(mode)


def _reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, with its format if that is refused."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        with path.open("rb") as file:
            head = file.read(16)
        for name, why in REFUSED_FORMATS.items():
            _, accept = Image.OPEN.get(name, (None, None))
            if accept is not None and accept(head):
                return f"{name} is not read: {why}"
    return str(error)
