"""The driver is killed at random moments, again and again, and the search resumed each time."""

import os
import signal
import time
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from driver_process import (
    assert_kept,
    below,
    finished,
    start,
    wait_for_end,
)

import reports
from reports.curves import read_curve
from reports.records import MANIFEST_FILE, STUDY_FILE


pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

TRIALS, EPOCHS = 8, 30
RECIPE = ["smoke", "--trials", str(TRIALS), "--set", f"train.epochs={EPOCHS}", "--workers", "2"]
LONGEST = 14.0
"""Seconds: Ray takes about five to start, so that most moments are within training."""


def begun(run: Path) -> bool:
    return (run / MANIFEST_FILE).exists() and (run / STUDY_FILE).exists()


def interrupt(run: Path, how: signal.Signals, rng: Random) -> None:
    """Run the search for a while, interrupt it, and see that nothing of it is left running."""
    options = ["--resume"] if begun(run) else RECIPE
    with start(run, *options) as driver:
        deadline = time.monotonic() + rng.uniform(0.5, LONGEST)
        while time.monotonic() < deadline and driver.poll() is None:
            time.sleep(0.1)
        started = below(driver.pid)
        if driver.poll() is None:
            os.kill(driver.pid, how)
        _, message = driver.communicate(timeout=120)
    assert "Traceback" not in message, message
    assert driver.returncode in {-how, 130, 0}, message
    wait_for_end(started)


@pytest.mark.parametrize(
    ("how", "times"), [(signal.SIGKILL, 20), (signal.SIGINT, 5), (signal.SIGTERM, 5)]
)
def test_nothing_is_lost_and_nothing_trained_twice(
    how: signal.Signals, times: int, tmp_path: Path
) -> None:
    run, rng = tmp_path / "run", Random(how)
    before = pd.DataFrame()
    for _ in range(times):
        interrupt(run, how, rng)
        if begun(run):
            after = finished(run)
            if len(before):
                assert_kept(before, after)
            before = after
    with start(run, *(["--resume"] if begun(run) else RECIPE)) as driver:
        _, message = driver.communicate(timeout=600)
    assert driver.returncode == 0, message
    assert_kept(before, finished(run))
    trials = reports.load(run)
    assert list(trials.state) == ["trained"] * TRIALS
    assert trials.config_id.is_unique
    for trial in trials.trial:
        assert [epoch.epoch for epoch in read_curve(run, trial)] == [*range(1, EPOCHS + 1)]
