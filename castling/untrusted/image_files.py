"""Image files and bytes become pictures: upright, in 8 bits, decoded by this process alone."""

import functools
import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from castling.errors import DataError, one_line
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
WITHIN_JPEG = "MPO"
"""A format that Pillow opens as JPEG, and knows by another suffix."""
BACKGROUND = (255, 255, 255, 255)
"""What is behind transparent pixels: white, as on paper."""
DEEP_MODES = ("I", "F")
"""Modes of more than 8 bits a channel begin so: I;16, I;16B, I, F."""
PLAIN_FORMATS = (None, "JPEG")
"""Formats whose pictures need neither their file nor their decoder once they are loaded."""
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What Pillow does to a picture of each EXIF orientation so that it is upright."""
REMEDY = "remove or replace it, or set data.on_error: skip"


def image_suffixes() -> frozenset[str]:
    """Return the endings of names, such as .png, of all formats that are read, in lower case."""
    from PIL import Image

    Image.init()  # its tables are empty until then
    formats = {*_formats(), WITHIN_JPEG}
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in formats
    )


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
    try:
        status = path.stat()  # once: it is a hundredth of what decoding takes
        is_device = not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode))
        if not is_device:
            if not status.st_size:  # as the files of /proc have it, some of which never end
                raise OSError("it is empty")  # noqa: TRY301 - one except names the file
            return _decoded(path, mode)
    except Exception as error:  # noqa: BLE001 - each of Pillow's decoders raises errors of its own
        raise _unreadable(str(path), error, data) from None
    raise _irregular(path, data)


def picture_of(content: bytes, mode: str, name: str, data: str) -> "Picture":
    """Return the image that some bytes encode; errors as `read_image`.

    Args:
        content: of a file of one of the FORMATS.
        mode: Pillow's, L or RGB.
        name: what the error calls it.
        data: name of the data, for the error.
    """
    try:
        if not content:
            raise OSError("it is empty")  # noqa: TRY301 - as above
        return _decoded(io.BytesIO(content), mode)
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreadable(name, error, data) from None


def read_size(path: Path, data: str) -> tuple[int, int]:
    """Return width and height from the header of a file, as stored; errors as `read_image`."""
    from PIL import Image

    check_regular(path, data)
    Image.init()
    try:
        with Image.open(path, formats=_formats()) as image:
            return image.size
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreadable(str(path), error, data) from None


def size_of(content: bytes, name: str, data: str) -> tuple[int, int]:
    """Return width and height from the header of encoded bytes; errors as `read_image`."""
    from PIL import Image

    Image.init()
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            return image.size
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreadable(name, error, data) from None


def check_regular(path: Path, data: str) -> None:
    """Raise DataError when a path is a pipe, a socket or a device, which may never end."""
    if is_endless(path):
        raise _irregular(path, data)


def upright(picture: "Picture", mode: str) -> "Picture":
    """Return a picture as its EXIF data say it is to be seen, in a mode, L or RGB.

    A training reads files so, and a prediction prepares pictures of Pillow so. What is transparent
    is white; 16 bits are scaled to 8; of several frames it is the first.

    Raises:
        ValueError: when pixels of 32 bits are beyond what images hold.
    """
    from PIL import ExifTags, Image

    picture.load()  # TIFF, AVIF and others turn it themselves, and say so from here on
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - whatever malformed EXIF data raise: the pixels are whole
        orientation = None
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is not None:
        picture = picture.transpose(Image.Transpose[turn])
    if picture.mode.startswith(DEEP_MODES):
        picture = _in_8_bits(picture)
    elif picture.has_transparency_data:
        whole = {"La": "LA"}.get(picture.mode)  # which converts to nothing else
        colours = (picture.convert(whole) if whole else picture).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", colours.size, BACKGROUND), colours)
    if picture.mode == mode and picture.format in PLAIN_FORMATS:
        return picture  # to convert it would copy it
    return picture.convert(mode)


def _decoded(source: Path | io.BytesIO, mode: str) -> "Picture":
    """Return the upright picture in a file or in bytes, whatever the file is called."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        with Image.open(source, formats=_formats()) as image:
            return upright(image, mode)
    except UnidentifiedImageError as error:
        raise ValueError(_refused(_head(source)) or str(error)) from None


def _head(source: Path | io.BytesIO) -> bytes:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:16]
    with source.open("rb") as file:
        return file.read(16)


@functools.cache
def _formats() -> list[str]:
    """Return the FORMATS of this Pillow."""
    from PIL import Image

    return [name for name in FORMATS if name in Image.OPEN]


def _refused(head: bytes) -> str:
    """Return why a file that begins so is refused, if castling refuses its format."""
    from PIL import Image

    for name, why in REFUSED_FORMATS.items():
        _, accept = Image.OPEN.get(name, (None, None))
        if accept is not None and accept(head):
            return f"{name} is not read: {why}"
    return ""


def _in_8_bits(picture: "Picture") -> "Picture":
    """Return a grey picture of 16 or 32 bits in mode L, scaled by what its format can hold.

    Integers of 16 bits are divided by 257, so that 65,535 becomes 255. Where the type says
    nothing of the range, as of 32 bits and of floats, the picture's own largest value decides:
    up to 1 of floats is 0 to 1, up to 255 is 8 bits, up to 65,535 is 16 bits.
    """
    from PIL import Image

    values = np.asarray(picture, np.float64)
    largest = values.max()
    if not (values.min() >= 0 and largest <= 65_535):  # NaN is neither
        rule = "its values must be from 0 to 65,535"
        raise ValueError(f"{rule}, got {values.min():g} to {largest:g}")
    if picture.mode == "F" and largest <= 1:
        values *= 255
    elif picture.mode.startswith("I;16") or picture.format == "PPM" or largest > 255:
        values /= 257
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _irregular(path: Path, data: str) -> DataError:
    return DataError(data, f"{path} is no regular file", "remove it")


def _unreadable(name: str, error: Exception, data: str) -> DataError:
    reason = one_line(str(error)) or type(error).__name__
    return DataError(data, f"{name} is no readable image ({reason})", REMEDY)
