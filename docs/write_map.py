"""Write docs/map.md: every module of the four packages with the first line of its docstring.

    python docs/write_map.py

A test compares the page with the modules; nobody edits it by hand.
"""

import ast
from itertools import groupby
from pathlib import Path


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "map.md"
PACKAGES = {
    "castling": "operators, models, data, tasks and training",
    "space": "what may be searched, and what it costs",
    "reports": "a run's records as a DataFrame, fronts, figures, pages and exports",
    "search": "the command line, strategies and samplers, the study, stoppers and the executor",
}
"""What each package is for; each imports only those above it."""
FOLDERS = (
    ("benchmarks/", "One file per claim; each prints a table that anyone can print again."),
    ("docs/", "One page per subject; docs/log.md keeps what was run and what came out."),
    ("tests/", "Mirrors the packages; golden/, data/ and shared/ stand beside them."),
)


def modules(package: str) -> list[Path]:
    """Return the modules of a package, without those that only gather or start others."""
    found = sorted((ROOT / package).rglob("*.py"))
    return [path for path in found if path.name not in {"__init__.py", "__main__.py"}]


def summary(module: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def page() -> str:
    """Return the text of docs/map.md."""
    lines = ["# Where things are", ""]
    lines += ["`python docs/write_map.py` writes this page from the modules' docstrings.", ""]
    for package, purpose in PACKAGES.items():
        lines += [f"## {package}: {purpose}", ""]
        for folder, members in groupby(modules(package), key=lambda path: path.parent):
            lines += [f"### {folder.relative_to(ROOT).as_posix()}/", "", "| file | what it is |"]
            lines += ["|---|---|"]
            lines += [f"| `{path.name}` | {summary(path)} |" for path in members]
            lines += [""]
    lines += ["## Beside the packages", "", "| folder | what it holds |", "|---|---|"]
    lines += [f"| `{folder}` | {purpose} |" for folder, purpose in FOLDERS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
