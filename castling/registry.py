"""A read-only table of named parts, filled by a decorator: operators, presets, samplers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from castling.errors import UnknownNameError


T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Named entries of one kind; unknown names are answered with the known ones.

    Args:
        kind: what an entry is, for messages.
        entry_points: group of the installed distributions' entry points that name modules to
            import, which then register theirs. They are imported when the names are first asked
            for, or a name that is not registered yet.
    """

    def __init__(self, kind: str, entry_points: str | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._group = entry_points

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

    def _load_plugins(self) -> None:
        if self._group is not None:
            group, self._group = self._group, None  # first: a plugin may ask for names itself
            for plugin in entry_points(group=group):
                plugin.load()

    def __getitem__(self, name: str) -> T:
        try:
            if name not in self._entries:
                self._load_plugins()
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownNameError(self.kind, name, self) from None

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._entries)
