"""Run folders that version 0.1.0 wrote are read, reported on and resumed as they were then."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import reports
import search
from reports.export import export
from reports.page import write_report


V1_RUNS = Path(__file__).parents[1] / "data" / "run_v1"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Eight trials of four epochs, four of them stopped early."""
    return shutil.copytree(V1_RUNS / "finished", tmp_path / "finished")


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """One trial of 100 epochs, a second interrupted after 31; every operator is a choice."""
    return shutil.copytree(V1_RUNS / "interrupted", tmp_path / "interrupted")


def test_a_finished_run_reads_as_it_was_written(finished: Path) -> None:
    trials = reports.load(finished)
    assert list(trials.state) == [
        *("trained", "trained", "stopped", "stopped", "trained", "stopped", "trained", "stopped")
    ]
    assert list(trials.macs[:3]) == [197_024, 38_816, 270_752]
    assert trials.params[3] == 25_623
    assert trials.top1[0] == pytest.approx(0.238889, abs=1e-6)
    assert trials.mask_density[3] == pytest.approx(0.002083, abs=1e-6)
    assert trials["model.embed_width"][1] == 16
    assert list(trials.pareto.front().trial) == [6]
    assert trials.pareto.hypervolume(relative=True) == pytest.approx(0.2257, abs=1e-4)
    curve = reports.load_curves(finished)
    assert len(curve[curve.trial == 0]) == 4


def test_a_finished_run_is_reported_on_and_exported(finished: Path, tmp_path: Path) -> None:
    assert any(path.suffix == ".html" for path in write_report(finished))
    metrics = export(finished, tmp_path / "best")
    assert (metrics.macs, metrics.params) == (38_816, 2_864)
    assert metrics.validation["top1"] == pytest.approx(0.25)


@pytest.mark.usefixtures("ray_session")
def test_an_interrupted_run_goes_on_from_its_checkpoint(interrupted: Path) -> None:
    begun = (interrupted / "curves" / "00001.jsonl").read_text()
    search.run(None, out=interrupted, resume=True, trials=2)
    trials = reports.load(interrupted)
    assert list(trials.state) == ["trained", "trained"]
    assert trials.top1[0] == pytest.approx(0.955556, abs=1e-6)
    curve = (interrupted / "curves" / "00001.jsonl").read_text()
    assert curve.startswith(begun)
    assert len(curve.splitlines()) == 103  # the checkpoint is of epoch 28 of the 31
    epochs = reports.load_curves(interrupted)
    assert pd.Index(epochs[epochs.trial == 1].epoch).is_unique
