"""A read-only table of named parts, filled by a decorator: operators, presets, samplers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from castling.errors import UnknownNameError


T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Named entries of one kind; unknown names are answered with the known ones."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under `name`.

        Raises:
            ValueError: when the name is taken.
        """

        def file(entry: T) -> T:
            self.add(name, entry)
            return entry

        return file

    def add(self, name: str, entry: T) -> None:
        """File `entry` under `name`; ValueError when the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._entries[name] = entry

    @contextmanager
    def temporarily(self, name: str, entry: T) -> Iterator[None]:
        """Hold an entry for the length of a with-block, so that a test leaves no trace."""
        self.add(name, entry)
        try:
            yield
        finally:
            del self._entries[name]

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownNameError(self.kind, name, self) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
