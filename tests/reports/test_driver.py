"""Whether a run's driver lives: the lock alone says so, whatever the records and files say."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reports.driver import MOST_BYTES, Driver, is_live, read_driver
from reports.page.run import Run
from reports.records import DRIVER_FILE, LOCK_FILE, Record, curve_path


MakeRun = Callable[..., Path]
MakeRecord = Callable[..., Record]

HOLD = """
import sys
from filelock import FileLock

with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(run: Path) -> "subprocess.Popen[str]":
    """Start a process that holds a run's lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run / LOCK_FILE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_killed_driver_is_not_live(run: Path) -> None:
    assert not is_live(run)
    with hold(run) as process:
        assert is_live(run)
        assert Run.read(run).is_live
        process.kill()
        process.wait()
        assert not is_live(run)
    assert (run / LOCK_FILE).exists()
    assert Run.read(run).count["running"] == 1


def test_a_copy_of_a_live_run_is_not_live(run: Path, tmp_path: Path) -> None:
    with hold(run) as process:
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / LOCK_FILE).write_bytes((run / LOCK_FILE).read_bytes())
        assert not is_live(tmp_path / "copy")
        process.kill()


def test_the_time_left_counts_epochs_of_this_driver(make_run: MakeRun, record: MakeRecord) -> None:
    now = datetime.now(UTC)
    old, new = (now - timedelta(hours=9)).isoformat(), (now - timedelta(seconds=5)).isoformat()
    records = [record(trial, finished_at=old) for trial in range(4)]
    records += [record(4, finished_at=new), record(5, "running", epochs_planned=10)]
    run = make_run(records)
    curve_path(run, 5).parent.mkdir()
    names = ("loss", "top1", "top1_branch", "learning_rate", "images_per_s", "train_seconds")
    epoch = {"metrics": dict.fromkeys(names, 0.5), "mask_density": []}
    epochs = (json.dumps({"epoch": number, **epoch}) + "\n" for number in range(1, 6))
    curve_path(run, 5).write_text("".join(epochs))
    begun = now - timedelta(seconds=150)
    Driver(trials=10, started_at=begun, host="here", pid=1).write(run)
    assert Run.read(run).seconds_left is None  # for it is not live
    with hold(run) as process:
        read = Run.read(run)
        left = read.seconds_left
        elapsed = (datetime.now(UTC) - begun).total_seconds()
        assert [(one.trial, one.epoch, one.planned) for one in read.in_training] == [(5, 5, 10)]
        # a trial and a half in 150 s, four and a half are left
        assert left is not None
        assert 450.0 <= left <= 3.0 * elapsed
        assert read.planned == 10
        process.kill()


BAD_DRIVERS = {
    "empty": "",
    "no JSON": "{",
    "another type": "[3]",
    "no time": '{"trials": 3, "started_at": "noon", "host": "a", "pid": 1}',
    "without a zone": '{"trials": 3, "started_at": "2026-01-01T00:00:00", "host": "a", "pid": 1}',
    "no trials": '{"trials": 0, "started_at": "2026-01-01T00:00:00Z", "host": "a", "pid": 1}',
    "deep": "[" * 100_000,
    "large": " " * (MOST_BYTES + 1) + "{}",
}


@pytest.mark.parametrize("case", BAD_DRIVERS)
def test_a_malformed_file_of_the_driver_counts_as_none(case: str, run: Path) -> None:
    (run / DRIVER_FILE).write_text(BAD_DRIVERS[case])
    assert read_driver(run) is None
    assert Run.read(run).planned == 8  # as the recipe says
