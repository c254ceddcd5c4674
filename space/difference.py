"""In what two spaces differ: the first dimension, config field or number of stages, in words."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from space.point import Dimension, Space


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two spaces differ."""

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
    ours, theirs = (
        {dim.target.path: dim for dim in space.dimensions} for space in (first, second)
    )
    for path in ours | theirs:
        words = [_words(dimensions.get(path)) for dimensions in (ours, theirs)]
        if words[0] != words[1]:
            yield Difference(f"the dimension {path}", *words)
    ours, theirs = (_leaves(space.to_data()["base"]) for space in (first, second))
    for path in ours | theirs:
        values = [json.dumps(leaves.get(path)) for leaves in (ours, theirs)]
        if values[0] != values[1]:
            yield Difference(path, *values)
    if first.num_stages != second.num_stages:
        yield Difference("num_stages", str(first.num_stages), str(second.num_stages))


def _words(dimension: Dimension | None) -> str:
    if dimension is None:
        return "none"
    values = " ".join(
        f"{name}={json.dumps(value)}" for name, value in dimension.domain.to_data().items()
    )
    return f"({values}, tie={dimension.tie})"


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
