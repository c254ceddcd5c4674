"""Sentences on the images of a training, for the user to see before anything is trained."""

import math
from collections.abc import Iterator

from castling.config import RunConfig
from castling.data.dataset import DatasetInfo
from castling.data.findings import Findings
from castling.data.index import SKIPPED_FILE, IndexFile
from castling.errors import one_line
from castling.training.data import TrainingData, num_test, opened


FEWEST_STEPS = 10
"""Steps of an epoch below which a smaller batch is proposed."""
LONGEST_CLASSES = 60
"""Characters of the names of classes that are listed."""


def describe(run: RunConfig, data: TrainingData, index: IndexFile | None = None) -> list[str]:
    """Return what was found: images, classes, splits, sizes, steps, and what is not used.

    Args:
        run: the training; of a search, that of its base.
        data: its images.
        index: that they were loaded with, so that nothing is listed again.

    Raises:
        DataError: when a header cannot be read.
    """
    dataset, info = opened(run, index)
    found = dataset.findings()
    return [
        _images(data, info, found),
        *_skipped(found),
        *(f"note: {note}" for note in found.notes),
        *few_steps(len(data.train), run.train.batch_size),
    ]


def few_steps(num_images: int, batch_size: int) -> Iterator[str]:
    """Yield a warning with a better batch where an epoch has too few steps.

    The better one is the largest power of two that leaves enough steps, so of at least that
    many images.
    """
    steps = math.ceil(num_images / batch_size)
    if steps >= FEWEST_STEPS or batch_size == 1:
        return
    better = 2 ** max(0, int(math.log2(max(1, num_images / FEWEST_STEPS))))
    yield (
        f"warning: {num_images:,} training images at batch {batch_size:,} make "
        f"{steps} {'step' if steps == 1 else 'steps'} an epoch: "
        f"train.batch_size={better} would make {math.ceil(num_images / better)}"
    )


def _images(data: TrainingData, info: DatasetInfo, found: Findings) -> str:
    tests = info.sizes.get("test") or num_test(info.sizes["train"])
    total = sum(info.sizes.values())
    names = ", ".join(info.classes)
    if len(names) > LONGEST_CLASSES:
        names = f"{info.classes[0]} to {info.classes[-1]}"
    drawn = [name for name in ("validation", "test") if name not in info.sizes]
    taken = f" ({' and '.join(drawn)} drawn from the training images)" if drawn else ""
    return one_line(
        f"{data.name}: {total:,} images of {len(info.classes):,} classes ({names}); "
        f"{len(data.train):,} to train, {len(data.validation):,} to validate, "
        f"{tests:,} to test{taken}{_sizes(found)}"
    )


def _sizes(found: Findings) -> str:
    if found.widths is None or found.heights is None:
        return ""
    width, height = (
        f"{low}" if low == high else f"{low} to {high}"
        for low, high in (found.widths, found.heights)
    )
    return f"; {width} pixels wide, {height} high, of {found.num_measured:,} measured"


def _skipped(found: Findings) -> Iterator[str]:
    if not found.num_skipped:
        return
    more = ", ..." if found.num_skipped > len(found.skipped) else ""
    named = "; ".join(found.skipped)
    yield one_line(
        f"skipped: {found.num_skipped:,} files, all of them in {SKIPPED_FILE}: {named}{more}"
    )
