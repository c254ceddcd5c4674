"""The README agrees with the code: its file map, its commands, its links."""

import ast
import re
from pathlib import Path

import pytest
import typer

from search.cli import app
from search.recipes import RECIPES


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("castling", "space", "reports", "search")
    for path in (ROOT / package).rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)


def summary(module: str) -> str:
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8")))
    assert docstring is not None
    return docstring.splitlines()[0]


@pytest.mark.parametrize("module", MODULES)
def test_file_map_has_every_module_with_its_own_words(module: str) -> None:
    line = re.search(rf"^{re.escape(module)} +(.*)$", README, re.MULTILINE)
    assert line is not None
    assert line[1] == summary(module)


def test_file_map_has_no_module_that_is_gone() -> None:
    mapped = re.findall(r"^((?:castling|space|reports|search)/\S+\.py) ", README, re.MULTILINE)
    assert mapped == MODULES


def test_every_command_is_named() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name in commands if not re.search(rf"\b{name}\b", README)] == []


def test_every_recipe_is_named() -> None:
    assert [name for name in RECIPES if f"| `{name}` |" not in README] == []


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
