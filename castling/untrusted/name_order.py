"""The order of names of files: numbers in them by size, the same on every machine."""

import os
import re
import sys


DIGITS = re.compile(r"(\d+)")


def begins(first: list[str | int], other: list[str | int]) -> bool:
    """Return whether a name begins with another one; both are split by `parts_of`."""
    last = len(first) - 1
    return (
        len(other) > last
        and first[:last] == other[:last]
        and str(other[last]).startswith(str(first[last]))
    )


def sort_key(name: str) -> str:
    """Return the sort key of names: numbers in them by size, case last, as timm sorts.

    It is one text, which a million names have memory for. NUL ends each part, and is in no name;
    a number begins with the count of its digits.
    """
    parts = DIGITS.split(name.lower())
    for place in range(1, len(parts), 2):
        digits = parts[place] if parts[place].isascii() else _in_ascii(parts[place])
        digits = digits.lstrip("0") or "0"
        parts[place] = f"{chr(len(digits))}{digits}"
        parts[place - 1] += "\0"
    return "".join((*parts, "\0\0", name))


def _in_ascii(digits: str) -> str:
    return "".join(str(int(digit)) for digit in digits)


def parts_of(name: str) -> list[str | int]:
    """Return the texts and numbers that a name consists of, in turn."""
    parts = DIGITS.split(name.lower())
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)]


def name_text(name: str) -> str:
    """Return a name as it is in UTF-8, whatever the locale."""
    if sys.getfilesystemencoding() == "utf-8":
        return name
    return os.fsencode(name).decode("utf-8", "surrogateescape")
