"""The HTML of a page: escaped text, data, script and style in one file with a strict policy."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple


SCRIPTS = ("base.js", "front.js", "layers.js", "figures.js", "compare.js", "start.js")
"""The files of the script, in the order in which they run, in one function."""
STYLE = "page.css"


class Image(NamedTuple):
    """A figure for readers without scripts."""

    png: bytes
    description: str


class Part(NamedTuple):
    """A section of the page: the script fills the element `id`."""

    id: str
    title: str
    intro: str = ""
    html: str = ""
    """Static content, escaped."""


@lru_cache(maxsize=1)
def script() -> str:
    """Return the script of the page: the files of the package, wrapped in one function."""
    folder = files("reports.page")
    bodies = [folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(bodies) + "\n})();\n"


@lru_cache(maxsize=1)
def style() -> str:
    """Return the style sheet of the page."""
    return files("reports.page").joinpath(STYLE).read_text(encoding="utf-8")


def json_text(data: Mapping[str, Any]) -> str:
    """Return data as JSON that no HTML parser takes for a tag or a comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hashed(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class Page(NamedTuple):
    """What a page holds."""

    title: str
    lead: str
    """The answer in a sentence."""
    notice: str
    """What a reader must know first; empty for nothing."""
    chips: Mapping[str, str]
    """Facts of one number each, by their label."""
    parts: Sequence[Part]
    still: str
    """HTML for readers without scripts."""
    data: Mapping[str, Any]
    """What the script draws."""


def document(page: Page) -> str:
    """Return the HTML of a page: one file that needs no other."""
    code, sheet = script(), style()
    policy = (
        f"default-src 'none'; img-src data:; script-src 'sha256-{_hashed(code)}'; "
        f"style-src 'sha256-{_hashed(sheet)}'; base-uri 'none'; form-action 'none'"
    )
    pills = "".join(
        f"<li><b>{escape(value)}</b> {escape(label)}</li>" for label, value in page.chips.items()
    )
    warning = f'<p class="notice" role="status">{escape(page.notice)}</p>' if page.notice else ""
    sections = "\n".join(map(_section, page.parts))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(page.title)}</title>
<style>{sheet}</style>
</head>
<body>
<header>
<div class="top"><h1>{escape(page.title)}</h1><div id="tools" class="tools"></div></div>
<p class="answer" id="answer">{escape(page.lead)}</p>
<ul class="chips" id="chips">{pills}</ul>
{warning}
</header>
<main>
<noscript><div class="still">{page.still}</div></noscript>
{sections}
</main>
<div id="tip" role="tooltip" hidden></div>
<div id="said" class="unseen" role="status" aria-live="polite"></div>
<script type="application/json" id="data">{json_text(page.data)}</script>
<script>{code}</script>
</body>
</html>
"""


def _section(part: Part) -> str:
    intro = f'<p class="intro">{escape(part.intro)}</p>' if part.intro else ""
    needs = "" if part.html else " data-drawn"
    return (
        f'<section aria-labelledby="{part.id}-title"{needs}><h2 id="{part.id}-title">'
        f'{escape(part.title)}</h2>{intro}<div id="{part.id}">{part.html}</div></section>'
    )


def image(picture: Image) -> str:
    """Return a figure as an element that holds its data."""
    data = base64.b64encode(picture.png).decode()
    return f'<img alt="{escape(picture.description)}" src="data:image/png;base64,{data}">'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; every cell is escaped."""
    first = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide" tabindex="0"><table><tr>{first}</tr>\n{body}</table></div>'


def facts(items: Mapping[str, str]) -> str:
    """Return labels and texts as a list."""
    lines = "\n".join(
        f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in items.items()
    )
    return f"<dl>{lines}</dl>"


def details(summary: str, body: str) -> str:
    """Return a part that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
