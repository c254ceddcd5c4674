"""A named YAML file, not parsed before it is used: a listing needs only its first line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from castling.errors import ConfigError
from castling.untrusted.plain_yaml import head_line, read_text


@dataclass(frozen=True)
class YamlFile:
    """A YAML file that a registry names."""

    path: Path

    @classmethod
    def of(cls, name: str, path: object) -> Self:
        """Return the file that an entry point names; ConfigError where that is no path."""
        if not isinstance(path, str | Path):
            raise ConfigError(name, "must be the path of a YAML file", path)
        return cls(Path(path))

    @property
    def text(self) -> str:
        """The YAML; ConfigError where there is no such file."""
        return read_text(self.path)

    @property
    def summary(self) -> str:
        """The first line of the file's head comment."""
        return head_line(self.text)
