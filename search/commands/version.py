"""`castling --version`."""

from typing import Annotated

import typer

from search.commands.console import print_result


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print_result(f"castling {version('castling-nas')}")
        raise typer.Exit


def options(
    is_wanted: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Search, train and export vision transformers that castle: linear cost, full context."""
