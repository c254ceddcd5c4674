"""Reads YAML from outside as plain data, bounded in size and depth."""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from castling.errors import ConfigError


LARGEST_FILE = 2 * 2**20
"""Largest size of a file in bytes; a recipe has a few hundred, one with 500 points 600,000."""
LONGEST_TEXT = 10_000
"""Largest number of characters of one key or value."""
MOST_VALUES = 100_000
"""Largest number of keys and values of a file; those of an alias count each time."""
DEEPEST = 64
"""Levels of lists and mappings within one another."""
LARGEST_NUMBER = 2**63
"""Whole numbers are smaller than this in absolute value."""

PLAIN = ("null", "bool", "int", "float", "timestamp", "str", "seq", "map")
"""The tags of YAML that are read; all others, those of Python first, are refused."""
UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
"""Characters that neither a path nor a file in UTF-8 can contain."""


def read_yaml(path: Path) -> object:
    """Return the plain data of a YAML file.

    Raises:
        ConfigError: when it is missing, malformed or beyond the bounds of this module.
    """
    return parse_yaml(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        ConfigError: when it is missing, too large or no UTF-8.
    """
    if is_endless(path):
        raise ConfigError(str(path), "must be a regular file")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(str(path), f"must be a readable file ({error.strerror})") from None
    except ValueError:  # a NUL in the path
        raise ConfigError(str(path), "must be a readable file") from None
    if len(content) > LARGEST_FILE:
        raise ConfigError(str(path), f"must have at most {LARGEST_FILE:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(str(path), "must be a text file in UTF-8") from None


def head_line(text: str) -> str:
    """Return the first line of a YAML text's head comment, its summary."""
    return text.partition("\n")[0].lstrip("# ") if text.startswith("#") else ""


def is_endless(path: Path) -> bool:
    """Return whether a path is a pipe or a device, which may never end."""
    try:
        return path.exists() and not (path.is_file() or path.is_dir())
    except OSError:  # opening says what is wrong
        return False


def parse_yaml(text: str, where: str) -> Any:
    """Return the plain data of a YAML text; `where` names its place in the ConfigError."""
    try:
        loader = _PlainLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigError(where, "must be well-formed YAML (nested too deeply)") from None
    except (yaml.YAMLError, *_VALUE_ERRORS) as error:
        raise ConfigError(where, f"must be well-formed YAML ({_place(error)})") from None


_VALUE_ERRORS = (ValueError, LookupError, AttributeError, ArithmeticError)
"""Errors of PyYAML for a date that does not exist, `!!int many` and the like."""


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{problem}, line {mark.line + 1}" if mark else str(problem)


class _PlainLoader(yaml.SafeLoader):
    """A loader that counts while it composes, so that it never holds more than the bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._num_values = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a value within the bounds; an alias counts as all that it stands for."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise ComposerError(None, None, "a value must not hold itself", event.start_mark)
            self._count(self._sizes.get(event.anchor, 1), event)
            return super().compose_node(parent, index)
        before = self._num_values
        self._count(1, event)
        self._depth += 1
        if self._depth > DEEPEST:
            rule = f"nested too deeply: at most {DEEPEST} levels"
            raise ComposerError(None, None, rule, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._num_values - before
        return node

    def _count(self, size: int, event: Any) -> None:
        self._num_values += size
        if self._num_values > MOST_VALUES:
            rule = f"more than {MOST_VALUES:,} values, aliases counted in full"
            raise ComposerError(None, None, rule, event.start_mark)
        if len(getattr(event, "value", "")) > LONGEST_TEXT:
            rule = f"a text of more than {LONGEST_TEXT:,} characters"
            raise ComposerError(None, None, rule, event.start_mark)

    def construct_mapping(self, node: Any, deep: Any = None) -> Any:
        """Make a mapping, unless it has a key twice."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if (key.tag, key.value) in seen:
                    rule = f"the key {key.value[:80]!r} twice"
                    raise ConstructorError(None, None, rule, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, bool(deep))

    def construct_yaml_int(self, node: Any) -> int:
        """Make a whole number of at most 64 bits."""
        value = int(super().construct_yaml_int(node))
        if abs(value) >= LARGEST_NUMBER:
            rule = "a whole number beyond 64 bits"
            raise ConstructorError(None, None, rule, node.start_mark)
        return value

    def construct_yaml_str(self, node: Any) -> Any:
        """Make a text that a path and a file can hold."""
        value = super().construct_yaml_str(node)
        if UNWRITABLE.search(value):
            rule = "a text with NUL or half a character"
            raise ConstructorError(None, None, rule, node.start_mark)
        return value


_PlainLoader.yaml_constructors = {
    f"tag:yaml.org,2002:{name}": getattr(_PlainLoader, f"construct_yaml_{name}") for name in PLAIN
} | {None: _PlainLoader.construct_undefined}
