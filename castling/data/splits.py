"""The splits of data by the names that people give them."""

from collections.abc import Iterable, Mapping

from castling.data.dataset import SPLITS, SplitName
from castling.errors import DataError, one_line


SPELLINGS: Mapping[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of splits, in lower case."""
MOST_NAMED = 5
"""Files, classes or folders that a sentence names."""


def few(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = [*names]
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return one_line(", ".join(names[:MOST_NAMED])) + more


def splits_of(names: Iterable[str], data: str) -> tuple[dict[SplitName, str], list[str]]:
    """Return which part of the data is which split, and notes on parts that are none.

    Args:
        names: of the parts.
        data: name of the data, for errors.

    Raises:
        DataError: when two parts are of one split, or none has the training images.
    """
    names = [*names]
    found: dict[SplitName, str] = {}
    others = []
    for name in names:
        split = SPELLINGS.get(name.lower())
        if split is None:
            others.append(name)
        elif split in found:
            reason = f"its parts {one_line(found[split])} and {one_line(name)} are both {split}"
            raise DataError(data, f"{reason} images", "keep one of them, or join them")
        else:
            found[split] = name
    if "train" not in found:
        reason = f"it has no train split, but {few(names) or 'nothing'}"
        raise DataError(data, reason, "call the training images train")
    notes = [f"splits that are not read: {few(others)}"] if others else []
    return {split: found[split] for split in SPLITS if split in found}, notes
