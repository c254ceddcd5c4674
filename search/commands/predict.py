"""`castling predict`: the classes of images by a saved model, with its own preprocessing."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from search.commands.console import errors, print_result
from search.commands.options import DeviceOption


MOST_NAMED = 5
"""Unreadable files that are named; of others only the number is printed."""


def predict(
    images: Annotated[Path, typer.Argument(metavar="IMAGE|FOLDER", help="What to classify.")],
    model: Annotated[Path, typer.Option("--from", help="Exported or trained folder.")],
    top: Annotated[int, typer.Option(help="Classes of each image.", min=1)] = 5,
    form: Annotated[
        str, typer.Option("--format", metavar="table|csv|json", help="Of the result.")
    ] = "table",
    device: DeviceOption = None,
) -> None:
    """Print the most probable classes of an image, or of every image in a folder."""
    from castling.errors import ConfigError, DataError
    from castling.training.predict import FilePrediction, predict_files

    if form not in _WRITERS:
        raise ConfigError("--format", f"must be one of {', '.join(_WRITERS)}", form)
    write = _WRITERS[form]()
    unreadable: list[FilePrediction] = []
    for one in predict_files(model, images, top=top, device=device, on_progress=_show_progress):
        if not one.problem:
            write.add(one)
        elif images.is_dir():
            unreadable.append(one)
        else:
            raise DataError(str(images), one.problem, "name an image")
    write.end()
    for one in unreadable[:MOST_NAMED]:
        errors.print(f"skipped: {one.problem}")
    if len(unreadable) > MOST_NAMED:
        errors.print(f"skipped: {len(unreadable) - MOST_NAMED:,} more that are no readable images")


def _show_progress(done: int, total: int) -> None:
    """Show on a terminal how far a large folder is."""
    if errors.is_terminal and total > 500 and not sys.stdout.isatty():
        errors.print(f"{done:,} of {total:,} images", end="\n" if done == total else "\r")


class _Table:
    """One line per image."""

    def add(self, one: Any) -> None:
        """Print an image."""
        from castling.errors import one_line

        classes = ", ".join(f"{name} {value:.2%}" for name, value in one.classes.items())
        print_result(one_line(f"{one.path}: {classes}"))

    def end(self) -> None:
        """Nothing is left to print."""


class _Csv:
    """One line per class of an image, below the names of the columns."""

    def __init__(self) -> None:
        columns = ("image", "rank", "class", "probability")
        self._writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        self._writer.writeheader()

    def add(self, one: Any) -> None:
        """Take an image."""
        from castling.training.predict import table_rows

        self._writer.writerows(table_rows(one))

    def end(self) -> None:
        """Nothing is left to print."""


class _Json:
    """A list with an object per class of an image."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(self, one: Any) -> None:
        """Take an image."""
        from castling.training.predict import table_rows

        self._rows += table_rows(one)

    def end(self) -> None:
        """Print the list."""
        sys.stdout.write(json.dumps(self._rows, indent=1) + "\n")


_WRITERS: dict[str, type[Any]] = {"table": _Table, "csv": _Csv, "json": _Json}
