"""The output of the commands: consoles, lines and tables."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


console = Console(markup=False, emoji=False)  # a path may hold [/b] or :car:
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""


def print_result(sentence: str) -> None:
    """Print a sentence on one line, however long; nothing if it is empty."""
    if sentence:
        console.print(sentence, soft_wrap=True, highlight=False)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    words: Sequence[str] | None = None,
) -> None:
    """Print a table.

    Args:
        columns: headings.
        rows: cells.
        title: above it.
        words: the columns that hold words and begin at the left, others end at the right; None
            for all.
    """
    table = Table(box=None, pad_edge=False, title=title)
    for column in columns:
        is_left = words is None or column in words
        table.add_column(column, justify="left" if is_left else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
