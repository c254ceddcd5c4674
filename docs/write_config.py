"""Write docs/config.md: every field of every config, with its type, default and meaning.

    python docs/write_config.py

A test compares the page with the configs; nobody edits it by hand.
"""

import ast
import inspect
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from castling.config import RunConfig
from castling.training.recipes import TrainingRecipe
from search.config import SearchConfig


PAGE = Path(__file__).parents[1] / "docs" / "config.md"
ROOTS = {
    "A training": (
        RunConfig,
        "The config of `castling train`, and `config.yaml` of every run, export and trial. "
        "`castling train` and `castling search` take any of these by `--set PATH=VALUE`, such as "
        "`--set train.epochs=10`.",
    ),
    "A search": (
        SearchConfig,
        "The recipe of `castling search`. Its `set` changes the base config of the space.",
    ),
    "A training recipe": (
        TrainingRecipe,
        "What `--training` takes, and `training` of a search ([training.md](training.md)).",
    ),
}
NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
}
NAMES |= {NoneType: "null", Any: "any value"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
LENGTHS = {"min_length": "at least", "max_length": "at most"}


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the configs that a type holds, in the order in which they stand in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        if not isinstance(part, str | int | float):
            yield from models(part)


def bounds(metadata: Sequence[Any]) -> list[str]:
    """Return the limits of a value in words."""
    found = []
    for one in metadata:
        if isinstance(one, FieldInfo):
            found += bounds(one.metadata)
            continue
        for names, unit in ((BOUNDS, ""), (LENGTHS, " entries")):
            for name, words in names.items():
                limit = getattr(one, name, None)
                if limit is not None:
                    found.append(f"{words} {limit:,}{unit}")
    return found


def words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return a type in words; configs are links to their sections."""
    limits = bounds(metadata)
    if limits:
        return f"{words(annotation)}, {', '.join(limits)}"
    parts = get_args(annotation)
    if parts:
        return generic(get_origin(annotation), parts)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return NAMES.get(annotation) or getattr(annotation, "__name__", str(annotation))


def generic(origin: Any, parts: tuple[Any, ...]) -> str:
    """Return a type with parameters in words."""
    if origin is Annotated:
        return words(parts[0], parts[1:])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin is tuple:
        length = "" if parts[-1] is Ellipsis else f" of {len(parts)}"
        return f"list{length}, each {words(parts[0])}"
    if origin is dict:
        return f"mapping of {words(parts[0])} to {words(parts[1])}"
    return " or ".join(words(part) for part in parts)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of every field of a config, those of its bases included."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        body = cast("ast.ClassDef", ast.parse(inspect.getsource(cls)).body[0]).body
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                name = cast("ast.Name", field.target).id
                found[name] = str(cast("ast.Constant", text.value).value)
    return found


def default(field: FieldInfo) -> str:
    """Return the default of a field as YAML has it."""
    if field.is_required():
        return "required"
    value = TypeAdapter(Any).dump_python(field.get_default(call_default_factory=True), mode="json")
    if isinstance(value, dict) and value:
        return "that of its fields"
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return f"{len(value)} with the defaults" if len(value) == 1 else f"{len(value)} entries"
    return f"`{json.dumps(value)}`"


def section(model: type[BaseModel]) -> list[str]:
    """Return the lines of a config: what it is, and its fields."""
    meaning = " ".join((model.__doc__ or "").strip().partition("\n")[0].split())
    lines = [f"### {model.__name__}", "", meaning, ""]
    said = meanings(model)
    lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = (
            f"`{field.alias or name}`",
            words(field.annotation, field.metadata),
            default(field),
            " ".join(said.get(name, "").split()),
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return [*lines, ""]


def page() -> str:
    """Return the text of docs/config.md."""
    lines = ["# Every field of every config", ""]
    lines += ["`python docs/write_config.py` writes this page from the configs.", ""]
    seen: set[type[BaseModel]] = set()
    for title, (root, meaning) in ROOTS.items():
        lines += [f"## {title}", "", meaning, ""]
        waiting = [root]
        while waiting:
            model = waiting.pop(0)
            if model in seen:
                continue
            seen.add(model)
            lines += section(model)
            nested = [one for f in model.model_fields.values() for one in models(f.annotation)]
            waiting = [*nested, *waiting]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
