"""Progress of work on data that takes longer than seconds, on the standard error."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar


T = TypeVar("T")
QUIET_S, EVERY_S, EVERY_LINE_S = 3.0, 0.5, 30.0
"""Seconds before the first word; between two on a terminal; between two lines elsewhere."""


def tracked(items: Iterable[T], number: int, what: str) -> Iterator[T]:
    """Yield the items, and say how many of them are done where it takes longer than seconds.

    Args:
        items: to go through.
        number: of the items.
        what: is done, to begin the line.
    """
    begun = time.monotonic()
    said, on_terminal = begun + QUIET_S, sys.stderr.isatty()
    spoke = False
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now < said:
            continue
        left = (now - begun) / done * (number - done)
        line = f"{what}: {done / number:.0%}, {left:.0f} s left"
        sys.stderr.write(f"\r{line}\033[K" if on_terminal else f"{line}\n")
        sys.stderr.flush()
        said, spoke = now + (EVERY_S if on_terminal else EVERY_LINE_S), True
    if spoke and on_terminal:
        sys.stderr.write("\r\033[K")
