"""The types that a config's field may have, and true or false where they have only numbers."""

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin


Kinds = tuple[Any, ...]
"""The types of a union, or one type: without annotations."""
Step = int | str
"""A key of a mapping, or the place of an entry in a list."""


class Switch(NamedTuple):
    """A true or false in a value."""

    path: tuple[Step, ...]
    """From the value to it."""
    value: bool


def kinds_of(annotation: Any) -> Kinds:
    """Return the types of an annotation: those of a union, or one."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for part in get_args(annotation) for kind in kinds_of(part))
    return (annotation,)


def may_be_number(kinds: Kinds) -> bool:
    """Return whether a value of these types is a number, or holds one, and no true or false."""
    if bool in kinds or Any in kinds:
        return False
    if any(map(_is_number, kinds)):
        return True
    inner = [kinds_of(part) for kind in kinds for part in _types_within(kind)]
    return any(map(may_be_number, inner))


def misplaced_switch(kinds: Kinds, value: object) -> Switch | None:
    """Return the first true or false in a value where its types have only numbers.

    YAML reads yes, no, on and off as true and false, and pydantic takes these for 1 and 0.

    Args:
        kinds: of the value.
        value: of plain data.
    """
    if isinstance(value, bool):
        is_number = any(map(_is_number, kinds)) and bool not in kinds
        return Switch((), value) if is_number else None
    for step, part in _entries(value):
        found = misplaced_switch(_kinds_at(kinds, step), part)
        if found is not None:
            return Switch((step, *found.path), found.value)
    return None


def untagged(fields: Mapping[str, Kinds], location: Sequence[Step]) -> tuple[Step, ...]:
    """Return the path of a value without the tags that pydantic adds for the types of a union.

    Args:
        fields: the kinds of a config's fields by name.
        location: of an error of pydantic.
    """
    kinds = fields.get(str(location[0]), ()) if location else ()
    for place, step in enumerate(location[1:], start=1):
        if sum(kind is not NoneType for kind in kinds) > 1:
            return (*location[:place], *location[place + 1 :])
        kinds = _kinds_at(kinds, step)
    return tuple(location)


def _is_number(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is int for value in get_args(kind))
    return kind in (int, float)


def _types_within(kind: Any) -> Iterator[Any]:
    """Yield the types of the entries of a list, or of the values of a mapping."""
    parts, origin = get_args(kind), get_origin(kind)
    if origin is dict:
        yield parts[1]
    elif origin in (list, tuple):
        yield from (part for part in parts if part is not Ellipsis)


def _kinds_at(kinds: Kinds, step: Step) -> Kinds:
    """Return the kinds of the entry of a list or mapping."""
    found: list[Any] = []
    for kind in kinds:
        types = [*_types_within(kind)]
        if len(types) > 1 and isinstance(step, int):  # a tuple with a type for each place
            types = types[step : step + 1]
        found += [inner for part in types for inner in kinds_of(part)]
    return tuple(found)


def _entries(value: object) -> Iterator[tuple[Any, object]]:
    """Yield the entries of a list or mapping with their steps."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
