"""The driver is killed at random moments, again and again, and the search resumed each time."""

import json
import logging
import os
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from driver_process import (
    assert_kept,
    below,
    finished,
    num_epochs,
    start,
    wait_for_end,
)

import reports
from reports.curves import read_curve
from reports.records import MANIFEST_FILE, STUDY_FILE, curve_path


pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

LOG = logging.getLogger(__name__)
"""Shown with --log-cli-level=INFO."""
TRIALS, EPOCHS = 8, 80
RECIPE = ["smoke", "--trials", str(TRIALS), "--set", f"train.epochs={EPOCHS}", "--workers", "2"]
STARTING, TRAINING = 15.0, 6.0
"""Seconds within which a driver is interrupted, after its start or after its first epoch."""
FEW = 20
"""Epochs after which an interrupted trial has a checkpoint, be the disk slow."""


def begun(run: Path) -> bool:
    return (run / MANIFEST_FILE).exists() and (run / STUDY_FILE).exists()


def wait_for_moment(run: Path, driver: "subprocess.Popen[str]", rng: Random) -> None:
    """Wait until some moment of a driver's start, or of its training."""
    if rng.random() < 0.5:
        deadline = time.monotonic() + rng.uniform(0.5, STARTING)
    else:
        before = num_epochs(run)
        while num_epochs(run) == before and driver.poll() is None:
            time.sleep(0.1)
        deadline = time.monotonic() + rng.uniform(0.0, TRAINING)
    while time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.1)


def interrupt(run: Path, how: signal.Signals, rng: Random) -> None:
    """Run the search for a while, interrupt it, and see that nothing of it is left running."""
    with start(run, *(["--resume"] if begun(run) else RECIPE)) as driver:
        wait_for_moment(run, driver, rng)
        started = below(driver.pid)
        if driver.poll() is None:
            os.kill(driver.pid, how)
        _, message = driver.communicate(timeout=120)
    assert "Traceback" not in message, message
    assert driver.returncode in {-how, 130, 0}, message
    wait_for_end(started)


def epochs_of_unfinished(run: Path) -> list[int]:
    """Return how far each trial has come that was begun and has not ended."""
    if not begun(run):
        return []
    trials = reports.load(run)
    return [len(read_curve(run, trial)) for trial in trials[trials.state == "running"].trial]


def goings_on(run: Path, trial: int) -> list[tuple[int, int]]:
    """Return after which epochs a trial was interrupted, each with the epoch that came next."""
    lines = curve_path(run, trial).read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    return [(last, then) for last, then in pairwise(epochs) if then <= last]


@pytest.mark.parametrize(
    ("how", "times"), [(signal.SIGKILL, 20), (signal.SIGINT, 5), (signal.SIGTERM, 5)]
)
def test_nothing_is_lost_and_nothing_trained_twice(
    how: signal.Signals, times: int, tmp_path: Path
) -> None:
    run, rng = tmp_path / "run", Random(how)
    before = pd.DataFrame()
    kept, open_trials = [], []
    for _ in range(times):
        interrupt(run, how, rng)
        if begun(run):
            after = finished(run)
            if len(before):
                assert_kept(before, after)
            before = after
        kept.append(len(before))
        open_trials += epochs_of_unfinished(run)
    with start(run, *(["--resume"] if begun(run) else RECIPE)) as driver:
        _, message = driver.communicate(timeout=600)
    assert driver.returncode == 0, message
    assert_kept(before, finished(run))
    trials = reports.load(run)
    assert list(trials.state) == ["trained"] * TRIALS
    assert trials.config_id.is_unique
    for trial in trials.trial:
        assert [epoch.epoch for epoch in read_curve(run, trial)] == [*range(1, EPOCHS + 1)]
    repeated = [again for trial in trials.trial for again in goings_on(run, trial)]
    assert all(then > 1 for last, then in repeated if last > FEW)
    assert sum(open_trials) > 0  # else nothing was interrupted that could have been lost
    LOG.info("%s: finished trials after each interruption %s", how.name, kept)
    LOG.info("epochs of the unfinished %s; last epoch, next epoch %s", open_trials, repeated)
