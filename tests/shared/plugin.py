"""Code on a page of the documentation, installed as a distribution of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from castling.registry import Registry


ROOT = Path(__file__).parents[2]
COMMANDS = """
import sys
from search.cli import main
for words in sys.argv[1].splitlines():
    sys.argv = ["castling", *words.split("|")]
    try:
        main()
    except SystemExit as end:
        assert not end.code, sys.argv
"""
"""Runs command lines, one after the other, in one process: importing torch takes longest."""


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of code of a language on a page of the documentation."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def install(page: str, site: Path, more: str = "") -> None:
    """Install a page's module, and more code at its end, under the entry point on the page."""
    [code, *_], [entry_point] = blocks(page, "python"), blocks(page, "toml")
    found = re.search(r'entry-points\."(.*?)"\]\n(.*?) = "(.*?)"', entry_point)
    assert found is not None
    install_module(site, *found.groups(), code + more)


def install_module(site: Path, group: str, name: str, module: str, code: str) -> None:
    """Install a distribution of one module that an entry point names."""
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (site / f"{module}.py").write_text(code)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")


@contextmanager
def registered(page: str, registry: Registry[Any]) -> Iterator[None]:
    """Run a page's module in this process; what it registers is gone afterwards."""
    before = dict(registry._entries)
    exec(blocks(page, "python")[0], {"__name__": page})
    try:
        yield
    finally:
        registry._entries = before


def run_with(site: Path, commands: list[str], then: str = "") -> subprocess.CompletedProcess[str]:
    """Run command lines, words divided by |, where a folder of distributions is installed.

    Args:
        site: the folder.
        commands: run one after the other, in one process.
        then: code that this process runs at last.
    """
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", COMMANDS + then, "\n".join(commands)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        check=False,
    )
