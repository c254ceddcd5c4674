"""Mean and standard deviation of images, channel by channel, without a copy of all of them."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np

from castling.cores import available_cores
from castling.data.dataset import Images, LabelledImages, Rows
from castling.data.progress import tracked


EXACT_BELOW = 2**26
"""Up to so many bytes of images the statistics equal those of version 0.1, bit for bit."""
CHUNK = 2**20
"""Pixels of a channel that are counted at a time; numpy counts them as eight bytes each."""
MOST_COUNTED = 10_000
"""Images that are decoded for the statistics of data that are not in memory: so many give the mean
of photographs to about 0.002."""
READ_AT_ONCE = 64
"""Images that one thread decodes at a time."""
SMALLEST_STD = 1e-6
"""The standard deviation of equal images: a divisor must not be zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Mean and standard deviation per channel, of pixel values in 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Return the statistics of as many channels as there are values, from a file.

        Raises:
            ValueError: when the values are no mean and standard deviation.
        """
        found = cls(mean=tuple(map(float, mean)), std=tuple(map(float, std)))
        is_mean = all(0.0 <= value <= 1.0 for value in found.mean)
        if len(mean) != len(std) or not is_mean or not all(0 < value <= 1 for value in found.std):
            raise ValueError("values that are no mean and standard deviation of pixels")
        return found


def statistics(images: Images) -> Statistics:
    """Return the statistics of images (image, channel, height, width).

    Small data are summed in float32 at once, as in version 0.1, so that its trainings repeat bit
    for bit. Larger data would take nine times their memory that way: their pixel values are
    counted, and the sums over the 256 counts are exact.
    """
    mean, std = _in_float32(images) if images.nbytes <= EXACT_BELOW else _by_counts([images])
    return _checked(mean, std)


def streamed_statistics(source: LabelledImages, rows: Rows, data: str) -> Statistics:
    """Return the statistics of images that are decoded, counted and dropped.

    Args:
        source: the images, of which `read` gives all in one size.
        rows: which; of more than MOST_COUNTED as many, evenly spaced.
        data: name of the data, for the progress.
    """
    if len(rows) > MOST_COUNTED:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_COUNTED).round().astype(np.int64)]
    parts = np.array_split(rows, max(1, len(rows) // READ_AT_ONCE))
    with ThreadPoolExecutor(available_cores()) as threads:  # Pillow frees the lock
        read = tracked(threads.map(source.read, parts), len(parts), f"{data}: mean and deviation")
        return _checked(*_by_counts(read))


def _checked(mean: np.ndarray, std: np.ndarray) -> Statistics:
    return Statistics(
        mean=tuple(float(value) for value in mean),
        std=tuple(max(float(value), SMALLEST_STD) for value in std),
    )


def _in_float32(images: Images) -> tuple[np.ndarray, np.ndarray]:
    scaled = images.astype(np.float32)
    scaled /= 255.0
    return scaled.mean(axis=(0, 2, 3)), scaled.std(axis=(0, 2, 3))


def _by_counts(parts: Iterable[Images]) -> tuple[np.ndarray, np.ndarray]:
    counts: np.ndarray = np.zeros(())
    for images in parts:
        num_images, num_channels, height, width = images.shape
        if not counts.ndim:
            counts = np.zeros((num_channels, 256), np.int64)
        step = max(1, CHUNK // (height * width))
        for start in range(0, num_images, step):
            for channel in range(num_channels):
                pixels = images[start : start + step, channel].ravel()
                counts[channel] += np.bincount(pixels, minlength=256)
    values, total = np.arange(256) / 255.0, counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.sqrt(variance)
