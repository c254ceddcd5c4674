"""Names of many images in two arrays: a million take their characters and eight bytes each."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedNames:
    """Names by number, in the bytes of the file system, whatever its encoding."""

    characters: NDArray[np.uint8]
    """Of all names, one after the other."""
    ends: NDArray[np.int64]
    """Where each name ends."""

    @classmethod
    def of(cls, names: Iterable[bytes]) -> Self:
        """Pack names."""
        characters, ends = bytearray(), array("q")
        for name in names:
            characters += name
            ends.append(len(characters))
        return cls(
            characters=np.frombuffer(characters, np.uint8),
            ends=np.frombuffer(ends, np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the names of several, one after the other."""
        starts = np.cumsum([0, *(len(part.characters) for part in parts[:-1])])
        return cls(
            characters=np.concatenate([part.characters for part in parts]),
            ends=np.concatenate(
                [part.ends + start for part, start in zip(parts, starts, strict=True)]
            ),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        """Return a name as Python's paths have it."""
        return os.fsdecode(self.raw(number))

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))

    def raw(self, number: int) -> bytes:
        """Return the bytes of a name."""
        if not 0 <= number < len(self.ends):
            raise IndexError(number)
        start = int(self.ends[number - 1]) if number else 0
        return self.characters[start : int(self.ends[number])].tobytes()

    @property
    def num_bytes(self) -> int:
        """Return the memory that the names take."""
        return self.characters.nbytes + self.ends.nbytes
