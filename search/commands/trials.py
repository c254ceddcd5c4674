"""One trial of a run: `castling logs` and `castling config`."""

import sys
from typing import Annotated

import typer

from castling.errors import ConfigError, one_line
from search.commands.console import print_result
from search.commands.options import RunArgument


TrialOption = Annotated[int, typer.Option("--trial", metavar="N", help="Number of the trial.")]


def logs(run: RunArgument, trial: TrialOption) -> None:
    """Print what a failed trial printed, and its traceback."""
    import reports
    from reports.records import trace_tail

    trials = reports.load(run, refused=True)
    rows = trials[trials["trial"] == trial]
    text = trace_tail(run, trial, lines=100_000, most_bytes=2**20)
    if rows.empty or not (text or rows["state"].iloc[0] == "failed"):
        failed = [f"#{number}" for number in trials.loc[trials["state"] == "failed", "trial"]]
        rule = f"must be a trial that failed ({', '.join(failed) or 'none did'})"
        raise ConfigError("--trial", rule, trial)
    for line in text.splitlines():
        sys.stdout.write(one_line(line.expandtabs(), 10_000) + "\n")
    state, reason = rows["state"].iloc[0], rows["reason"].iloc[0]
    print_result(one_line(f"trial {trial} {state}" + (f": {reason}" if reason else "")))
    if not text:
        print_result("no output was kept: this run is of an earlier version of castling")


def config(run: RunArgument, trial: TrialOption) -> None:
    """Print the config of a trial, trained, failed, stopped or running, for `castling train`."""
    import yaml

    import reports

    data = reports.load_config(run, trial)
    sys.stdout.write(yaml.safe_dump(data, sort_keys=False, width=99))
