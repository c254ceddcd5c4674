"""Disks that are full, run folders that move, files that break off in the middle."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from driver_process import assert_kept, below, finished, start, wait_for_end, wait_for_epochs

import reports
from reports.curves import read_curve
from reports.page import write_report
from reports.records import STUDY_FILE, curve_path, training_path


pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

RECIPE = ["smoke", "--trials", "4", "--workers", "2", "--set", "train.epochs=20"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    # Limits of a process fail with other errors, and Ray's processes would not inherit them.
    hint = (
        "only root may mount a small disk: try `unshare --map-root-user --mount make test-faults`"
    )
    assert mounted.returncode == 0, f"{mounted.stderr}{hint}"
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def kill(driver: "subprocess.Popen[str]") -> None:
    """Kill a driver and wait until its workers have noticed."""
    started = below(driver.pid)
    driver.kill()
    driver.communicate(timeout=60)
    wait_for_end(started)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


def castling(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "search", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_goes_on(run: Path, before: pd.DataFrame, *options: str) -> None:
    """Resume a search, and see that it ends with four trials, the finished ones as they were."""
    with start(run, "--resume", *options) as driver:
        _, message = driver.communicate(timeout=300)
    assert driver.returncode == 0, message
    assert_kept(before, finished(run))
    assert len(finished(run)) == 4


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for some bytes; return the file that does."""
    filler = disk / "filler"
    free = int(subprocess.check_output(["df", "-B1", "--output=avail", str(disk)]).split()[-1])
    filler.write_bytes(bytes(max(0, free - leave)))
    return filler


@pytest.mark.parametrize("leave", [0, 8192, 65536, 200_000])
def test_a_full_disk_ends_the_search_in_a_sentence_and_loses_nothing(
    small_disk: Path, leave: int
) -> None:
    run = small_disk / "run"
    with start(run, *RECIPE) as driver:
        wait_for_epochs(run, 4)
        filler = fill(small_disk, leave)
        _, message = driver.communicate(timeout=300)
    if driver.returncode:
        assert driver.returncode == 1
        assert "No space left on device" in message
        assert "Traceback" not in message
    before = finished(run)
    filler.unlink()
    assert_goes_on(run, before)


def test_a_report_on_a_full_disk_leaves_the_old_one(small_disk: Path) -> None:
    run = small_disk / "run"
    with start(run, *RECIPE[:2], "1", "--set", "train.epochs=2") as driver:
        driver.communicate(timeout=300)
    write_report(run)
    old = (run / "report" / "index.html").read_bytes()
    fill(small_disk, 1000)
    with pytest.raises(OSError, match="No space left"):
        write_report(run)
    assert (run / "report" / "index.html").read_bytes() == old
    assert len(reports.load(run)) == 1


@pytest.mark.parametrize("spoilt", ["curve", "checkpoint", "study"])
def test_a_file_that_breaks_off_costs_no_finished_trial(spoilt: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *RECIPE) as driver:
        wait_for_epochs(run, 50)
        kill(driver)
    before = finished(run)
    interrupted = int(reports.load(run).query("state == 'running'").trial.min())
    path = {
        "curve": curve_path(run, interrupted),
        "checkpoint": training_path(run, interrupted),
        "study": run / STUDY_FILE,
    }[spoilt]
    if path.exists():
        path.write_bytes(path.read_bytes()[:-7])
    assert_goes_on(run, before)
    assert [epoch.epoch for epoch in read_curve(run, interrupted)] == [*range(1, 21)]


def test_a_run_goes_on_where_it_was_moved_to(tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "moved"
    with start(run, *RECIPE) as driver:
        wait_for_epochs(run, 30)
        kill(driver)
    before = finished(run)
    moved.parent.mkdir()
    run.rename(moved)
    assert_goes_on(moved, before)
    assert not run.exists()


def test_a_run_that_may_only_be_read_is_read_and_not_gone_on_with(small_disk: Path) -> None:
    run = small_disk / "run"
    with start(run, *RECIPE[:2], "3", "--set", "train.epochs=2") as driver:
        driver.communicate(timeout=300)
    before = finished(run)
    remount(small_disk, "ro")
    try:
        for command in (["status"], ["front"]):
            done = castling(*command, str(run))
            assert done.returncode == 0, done.stderr
            assert "trained" in done.stdout or "top1" in done.stdout
        for command in (
            ["search", "--out", str(run), "--resume", "--trials", "4"],
            ["search", "smoke", "--out", str(small_disk / "other")],
            ["report", str(run)],
        ):
            done = castling(*command)
            assert done.returncode in {1, 2}
            assert done.stderr.startswith("castling: ")
            assert "Read-only file system" in done.stderr
            assert "Traceback" not in done.stderr
        assert_kept(before, finished(run))
    finally:
        remount(small_disk, "rw")
    assert_goes_on(run, before, "--trials", "4")
