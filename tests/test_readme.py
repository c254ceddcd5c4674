"""The README and the map agree with the code: files, commands, links."""

import re
from pathlib import Path

import pytest
import typer
import write_map

from search.cli import app
from search.recipes import RECIPES


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_map_is_written_from_the_modules_of_today() -> None:
    """`python docs/write_map.py` writes it."""
    assert (ROOT / "docs" / "map.md").read_text(encoding="utf-8") == write_map.page()


def test_every_command_is_named() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert [name for name in commands if not re.search(rf"\b{name}\b", README)] == []


def test_every_recipe_is_named() -> None:
    assert [name for name in RECIPES if f"| `{name}` |" not in README] == []


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
