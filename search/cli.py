"""The command line `castling`: its commands assembled, its errors turned into exit codes."""

import functools
import os
import signal
import sys
from collections.abc import Callable

import typer

from castling.errors import CastlingError, one_line
from castling.signals import handle
from castling.surroundings import complete_environment
from search.commands import (
    compare,
    data,
    lists,
    models,
    predict,
    results,
    search,
    status,
    trials,
    version,
)
from search.commands.console import INTERRUPTED, errors


app = typer.Typer(
    name="castling",
    help="Search, train and export vision transformers that castle: linear cost, full context.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    search.search,
    *(status.status, results.front, results.report, compare.compare, trials.logs, trials.config),
    *(models.export, models.train, models.evaluate, models.measure, predict.predict),
    *(lists.metrics, lists.operators, lists.layers, lists.spaces),
    *(lists.recipes, lists.strategies, lists.samplers, lists.stoppers),
)
"""In the order of `castling --help`."""


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that ends with a line and its exit code where a signal ends it."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
        except KeyboardInterrupt:
            errors.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None

    return run


for command in COMMANDS:
    app.command()(_interruptible(command))
app.callback()(version.options)
app.add_typer(data.app, name="data")


def _hide_password() -> None:
    """Restart without the password of `--storage`, which all users could read.

    A list of processes shows it, and Ray shows it to all users of a cluster.
    """
    if not any(argument.startswith("--storage") for argument in sys.orig_argv):
        return
    from reports.database import VARIABLE, without_passwords

    arguments, url = without_passwords(sys.orig_argv[1:])
    if url is not None:
        os.environ[VARIABLE] = url
        os.execv(sys.executable, [sys.executable, *arguments])


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 bad input, 130 interrupted."""
    _hide_password()
    handle(signal.default_int_handler)  # every signal as Ctrl-C
    complete_environment()
    try:
        app()
    except CastlingError as error:
        errors.print(f"castling: {one_line(str(error))}")
        raise SystemExit(2 if error.is_bad_input else 1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(one_line(f"castling: {where}{error.strerror or error}"))
        raise SystemExit(1) from None
