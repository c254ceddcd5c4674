"""A read-only table of named parts, filled by a decorator and by installed plugins."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Generic, TypeVar

from castling.errors import PluginError, UnknownNameError, one_line


T = TypeVar("T")
LONGEST_REASON = 300
"""Characters in a sentence of why a plugin cannot be imported."""


class Registry(Mapping[str, T], Generic[T]):
    """Named entries of one kind; the error for an unknown name lists all names.

    Args:
        kind: what an entry is, for messages.
        entry_points: group of the installed distributions' entry points that name modules, which
            register their entries when they are imported. They are imported when the names are
            first asked for, or a name that is not registered yet.
        entry: makes an entry from the name of an entry point and its object, which may be a path
            of a file; None if entry points name modules, which register their entries.
    """

    def __init__(
        self,
        kind: str,
        entry_points: str | None = None,
        entry: Callable[[str, object], T] | None = None,
    ) -> None:
        self.kind = kind
        self._entry = entry
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
        """Import the plugins of the group, once.

        Raises:
            PluginError: when one cannot be imported, or takes a name that is taken; at the next
                look-up again.
        """
        if self._group is None:
            return
        group, self._group = self._group, None  # first: a plugin may look names up itself
        try:
            for plugin in entry_points(group=group):
                with _blamed(plugin):
                    self._file(plugin.name, plugin.load())
        except PluginError:
            self._group = group
            raise

    def _file(self, name: str, loaded: object) -> None:
        """File what an entry point names; a module files its entries itself."""
        if self._entry is None or isinstance(loaded, ModuleType):
            return
        entry = self._entry(name, loaded)
        if self._entries.get(name) != entry:  # filed before another plugin failed
            self.add(name, entry)

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


@contextmanager
def _blamed(plugin: EntryPoint) -> Iterator[None]:
    """Raise a PluginError that names the plugin for whatever it raises."""
    try:
        yield
    except Exception as error:  # whatever a module of others raises as it is imported
        distribution = plugin.dist.name if plugin.dist else "an unnamed distribution"
        said = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
        entry = f"{plugin.name} = {plugin.value}"
        raise PluginError(distribution, entry, one_line(reason, LONGEST_REASON)) from error
