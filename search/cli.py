"""The command line `castling`: its commands assembled, its errors turned into exit codes."""

import os
import signal
import sys

import typer

from castling.errors import CastlingError, one_line
from search.commands import data, lists, models, predict, results, search
from search.commands.console import errors


app = typer.Typer(
    name="castling",
    help="Search, train and export vision transformers that castle: linear cost, full context.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    search.search,
    *(results.status, results.front, results.report),
    *(models.export, models.train, models.evaluate, models.measure, predict.predict),
    *(lists.metrics, lists.operators, lists.layers, lists.spaces),
    *(lists.recipes, lists.strategies, lists.samplers, lists.stoppers),
)
"""In the order of `castling --help`."""
for command in COMMANDS:
    app.command()(command)
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        app()
    except CastlingError as error:
        errors.print(f"castling: {one_line(str(error))}")
        raise SystemExit(2 if error.is_bad_input else 1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(one_line(f"castling: {where}{error.strerror or error}"))
        raise SystemExit(1) from None
