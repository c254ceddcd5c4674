"""README, the page on the command line and the map agree with the code: files, commands, links."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import write_config
import write_map
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import castling
from search.cli import app
from search.recipes import RECIPES


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8"))
]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SIDE_BY_SIDE = re.findall(
    r"^\| [^|]+ \| `(castling [^|]+)` \| `([^|]+)` \|$", README, re.MULTILINE
)
"""A command, and what does the same in Python."""


def command_lines(text: str) -> list[list[str]]:
    """Return the words of every line of a code block, or text in backquotes, that is a command."""
    found = re.findall(r"(?:^|`)(castling [a-z][^`\n#]*)", text.replace("\\\n", ""), re.MULTILINE)
    return [shlex.split(line.replace("[", " ").replace("]", " ")) for line in found]


def test_map_is_written_from_the_modules_of_today() -> None:
    """`python docs/write_map.py` writes it."""
    assert (ROOT / "docs" / "map.md").read_text(encoding="utf-8") == write_map.page()


def test_config_page_is_written_from_the_configs_of_today() -> None:
    """`python docs/write_config.py` writes it."""
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == write_config.page()
    silent = [
        line for line in page.splitlines() if line.startswith("| `") and line.endswith("|  |")
    ]
    assert silent == [], "every field says what it means"


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 120


def test_every_command_is_named() -> None:
    assert set(COMMANDS) - {words[1] for words in command_lines(COMMAND_LINE)} == set()


def test_every_recipe_is_named() -> None:
    assert [name for name in RECIPES if f"| `{name}` |" not in COMMAND_LINE] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for _, name, *words in command_lines(page.read_text(encoding="utf-8")):
        if name not in COMMANDS:
            assert name.isupper(), f"castling {name}"  # castling COMMAND
            continue
        command = COMMANDS[name]
        if words and words[0] in getattr(command, "commands", {}):  # castling data pack
            command = command.commands[words[0]]
        options = {option for param in command.params for option in param.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= options, name


@pytest.mark.parametrize(("page", "link"), LINKS, ids=lambda value: str(value)[-40:])
def test_link_leads_somewhere(page: Path, link: str) -> None:
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    if heading:
        lines = target.read_text(encoding="utf-8").splitlines()
        headings = [line.lstrip("# ").lower() for line in lines if line.startswith("#")]
        assert heading in [re.sub(r"[^\w -]", "", line).replace(" ", "-") for line in headings]


@pytest.mark.slow
def test_both_columns_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(SIDE_BY_SIDE) == 7
    digit = load_digits().images[0] * 15
    picture = Image.fromarray(digit.astype("uint8"))
    picture.save("photo.jpg")
    names: dict[str, object] = {"castling": castling, "picture": picture}
    for command, python in SIDE_BY_SIDE:
        words = shlex.split(command)[1:]
        if words[0] != "search":
            assert CliRunner().invoke(app, words).exit_code == 0, command
        quick = python.replace('run("digits"', 'run("smoke", trials=2')
        exec(quick, names)
