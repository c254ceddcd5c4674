"""What a failed trial leaves: its output, its traceback, the stacks of a crash."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from castling.config import RunConfig
from castling.training.data import load_data
from reports.records import error_path
from search.execution import worker
from search.execution.trial_log import MOST_BYTES, TrialLog, output_kept


def lookup(table: dict[str, int]) -> int:
    sys.stdout.write("looking up\n")
    return table["absent"]


def test_the_file_and_line_of_a_failed_operator_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[dict[str, object]] = []
    monkeypatch.setattr(worker.tune, "report", reports.append)
    monkeypatch.setattr(worker, "train", lambda *_, **__: lookup({}))
    run = RunConfig.from_data({"data": {"num_train": 60, "num_validation": 30}})
    config = {"trial": 3, "run": json.dumps(run.to_data()), "folder": str(tmp_path)}
    config |= {"seeds": [0], "objectives": [("top1", "max")]}
    config |= {"rungs": [], "seconds": 60.0, "threads": 1, "processes": 1, "gpus": 0.0}
    worker.train_trial(config, load_data(run.data, run.model))
    kept = error_path(tmp_path, 3).read_text()
    assert kept.startswith("looking up\nTraceback")
    assert f'File "{__file__}", line {lookup.__code__.co_firstlineno + 2}, in lookup' in kept
    assert kept.endswith("KeyError: 'absent'\n")
    assert "looking up" in capsys.readouterr().out  # which goes where it went, too


def print_lines(number: int) -> None:
    for place in range(number):
        sys.stderr.write(f"line {place:08d}\n")
    lookup({})


CRASHES = {
    "a crash": "ctypes.string_at(0)",
    "too long a training": "time.sleep(60)",
}


@pytest.mark.parametrize("how", CRASHES)
def test_a_process_that_ends_leaves_its_stacks(how: str, tmp_path: Path) -> None:
    script = f"""
        import ctypes, pathlib, sys, time
        from search.execution.trial_log import output_kept

        def operator():
            {CRASHES[how]}

        with output_kept(pathlib.Path(sys.argv[1]), 1.0):
            print("begun", flush=True)
            operator()
    """
    path = tmp_path / "errors" / "00000.txt"
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=50).returncode != 0
    kept = path.read_text()
    assert kept.startswith("begun\n")
    assert "in operator" in kept


def test_of_endless_output_the_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "00000.txt"
    with pytest.raises(KeyError), output_kept(path):
        print_lines(60_000)
    lines = path.read_text().splitlines()
    assert path.stat().st_size <= 2 * MOST_BYTES + 4_000
    assert lines[-1] == "KeyError: 'absent'"
    printed = [line for line in lines if line.startswith("line ")]
    assert printed == [f"line {number:08d}" for number in range(60_000)][-len(printed) :]
    assert len(printed) > 10_000


def test_a_trial_that_goes_on_appends(tmp_path: Path) -> None:
    for text in ("first\n", "second \udcff\n"):
        log = TrialLog(tmp_path / "errors" / "00000.txt")
        log.write(text)
        log.close()
    assert (tmp_path / "errors" / "00000.txt").read_text() == "first\nsecond \\udcff\n"
