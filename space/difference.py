"""The first difference of two spaces in words: a dimension, config field or number of stages."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from space.point import Space


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two spaces."""

    what: str
    first: str
    second: str


def difference(first: Space, second: Space) -> Difference | None:
    """Return the first thing that makes points of two spaces mean something else, or None.

    Names of spaces and the order of dimensions have no meaning, and neither has whether an
    operator's option is written out or left at its default.
    """
    return next(_differences(first, second), None)


def _differences(first: Space, second: Space) -> Iterator[Difference]:
    for what, described in (
        ("the dimension ", _dimensions),
        ("", _fields),
    ):
        ours, theirs = described(first), described(second)
        for path in ours | theirs:
            pair = ours.get(path, "none"), theirs.get(path, "none")
            if pair[0] != pair[1]:
                yield Difference(f"{what}{path}", *pair)


def _dimensions(space: Space) -> dict[str, str]:
    """Return the values and the tie of every dimension in words, by its target's path."""
    return {
        dimension.target.path: f"({_words(dimension.domain.to_data())}, tie={dimension.tie})"
        for dimension in space.dimensions
    }


def _words(data: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in data.items())


def _fields(space: Space) -> dict[str, str]:
    """Return the other numbers of a space as JSON, by their dotted paths."""
    data = space.to_data()
    numbers = _leaves(data["base"]) | {"num_stages": data["num_stages"]}
    return {path: json.dumps(value) for path, value in numbers.items()}


def _leaves(data: object, path: str = "") -> dict[str, Any]:
    """Return the values of nested mappings and lists by their dotted paths."""
    if isinstance(data, Mapping):
        items = [(str(key), value) for key, value in data.items()]
    elif isinstance(data, list):
        items = [(str(index), value) for index, value in enumerate(data)]
    else:
        return {path: data}
    return {
        name: leaf
        for key, value in items
        for name, leaf in _leaves(value, f"{path}.{key}" if path else key).items()
    }
