"""Counts as people write them: 1.2M, 900k or 1.3G, to numbers and back."""

import re
from decimal import Decimal

from castling.config.limits import LARGEST_COUNT
from castling.errors import ConfigError


SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_size(text: str | int, field: str = "size") -> int:
    """Return the count that `1.2M`, `900k`, `1.3G` or a plain number stands for.

    Raises:
        ConfigError: when the text is no positive count.
    """
    match = re.fullmatch(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([kKmMgGtT]?)\s*", str(text)[:99])
    if match is not None and not isinstance(text, bool):
        suffix = match[2].upper() if match[2] not in "kK" else match[2].lower()
        count = Decimal(match[1]) * SUFFIXES[suffix]
        if 1 <= count <= LARGEST_COUNT and count == int(count):
            return int(count)
    raise ConfigError(field, "must be a positive count such as 900k, 1.2M or 1.3G", text)


def format_size(count: float) -> str:
    """Return a count with three significant digits and a suffix: 1.25M."""
    count = float(f"{count:.3g}")  # first, so that 999,999 becomes 1.00M and not 1000k
    for suffix in ("T", "G", "M", "k"):
        if count >= SUFFIXES[suffix]:
            scaled = count / SUFFIXES[suffix]
            digits = 2 if scaled < 10 else 1 if scaled < 100 else 0
            return f"{scaled:.{digits}f}{suffix}"
    return f"{count:.0f}"
