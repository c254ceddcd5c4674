"""Searches as commands in processes of their own, and what is left when they are interrupted."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

import reports
from reports.records import CURVES_FOLDER


def start(
    run: Path, *options: str, environment: Mapping[str, str] | None = None, umask: int = -1
) -> "subprocess.Popen[str]":
    """Start a search as a command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "search", "search", "--out", str(run), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
        umask=umask,
    )


def num_epochs(run: Path) -> int:
    """Count the epochs that the workers have written."""
    return sum(len(path.read_text().splitlines()) for path in (run / CURVES_FOLDER).glob("*"))


def wait_for_epochs(run: Path, count: int, seconds: float = 90.0) -> None:
    """Wait until the workers have written so many epochs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if num_epochs(run) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"no {count} epochs in {run}")


def processes() -> list[tuple[int, int, str, str]]:
    """Return every process: its number, its parent's, its state, its command."""
    table = subprocess.run(
        ["ps", "-eo", "pid,ppid,stat,args", "--no-headers"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(None, 3) for line in table.stdout.splitlines()]
    return [(int(row[0]), int(row[1]), row[2], row[3]) for row in rows if len(row) == 4]


def below(driver: int) -> dict[int, str]:
    """Return the processes that a driver has started, with their commands."""
    rows, found = processes(), {driver}
    for _ in range(5):
        found |= {pid for pid, parent, *_ in rows if parent in found}
    return {pid: command for pid, _, _, command in rows if pid in found - {driver}}


def workers_of(driver: int) -> list[int]:
    """Return the processes below a driver that train."""
    return [pid for pid, command in below(driver).items() if "ImplicitFunc" in command]


def wait_for_end(started: dict[int, str], seconds: float = 90.0) -> None:
    """Wait until none of these processes is alive, not even as a zombie."""
    deadline = time.monotonic() + seconds
    left: dict[int, str] = started
    while time.monotonic() < deadline:
        alive = {pid: command for pid, _, _, command in processes()}
        left = {pid: command for pid, command in started.items() if pid in alive}
        if not left:
            return
        time.sleep(0.3)
    raise AssertionError(f"still alive: {left}")


def finished(run: Path) -> pd.DataFrame:
    """Return the trained trials of a run, by number."""
    trials = reports.load(run)
    return trials[trials.state == "trained"].set_index("trial")


def assert_kept(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Check that every trial that was finished before is finished still, once, as it was."""
    assert after.index.is_unique
    same = after.loc[list(before.index)]
    for column in ("finished_at", "config_id", "top1", "loss", "train_seconds"):
        assert list(same[column]) == list(before[column]), column
