import json
from pathlib import Path

import pytest
import torch

from castling.config import DistillConfig, RunConfig
from castling.model.build import build
from castling.model.storage import read_tensors, save
from castling.training.data import load_data
from reports.records import curve_path, weights_path
from search.execution import worker


def test_a_trial_begins_with_the_weights_that_the_recipe_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunConfig.from_data({"data": {"num_train": 100, "num_validation": 50}})
    start = tmp_path / "start"
    save(build(run.model, seed=9), start)
    changes = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    begun = run.replace(
        train=run.train.replace(**changes, initial=str(start), distill=DistillConfig())
    )
    reports: list[dict[str, object]] = []
    monkeypatch.setattr(worker.tune, "report", reports.append)
    config = {"trial": 0, "run": json.dumps(begun.to_data()), "folder": str(tmp_path / "run")}
    worker.train_trial(
        {**config, "rungs": [], "seconds": None, "threads": 1, "device": "cpu"},
        load_data(run.data, run.model),
    )
    assert json.loads(str(reports[-1][worker.OUTCOME]))["state"] == "trained"
    assert curve_path(tmp_path / "run", 0).is_file()
    trained = read_tensors(weights_path(tmp_path / "run", 0))[0]
    saved = read_tensors(start / "model.safetensors")[0]
    assert (trained["head.weight"] - saved["head.weight"]).abs().max() < 1e-6


def test_at_a_rung_the_whole_curve_is_reported_that_of_an_interrupted_part_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"data": {"num_train": 60, "num_validation": 30}, "train": {"epochs": 4}}
    run = RunConfig.from_data(data)
    images = load_data(run.data, run.model)
    curves: list[list[int]] = []

    def report(reported: dict[str, object]) -> None:
        if worker.CURVE in reported:
            epochs = json.loads(str(reported[worker.CURVE]))
            curves.append([epoch["epoch"] for epoch in epochs])
            if reported["epoch"] == 1 and len(curves) == 1:
                raise SystemExit  # as when Ray ends the training

    monkeypatch.setattr(worker.tune, "report", report)
    config = {"trial": 0, "run": json.dumps(run.to_data()), "folder": str(tmp_path / "run")}
    config |= {"rungs": [1, 3, 4], "seconds": None, "threads": 1, "device": "cpu"}
    with pytest.raises(SystemExit):
        worker.train_trial(config, images)
    assert not weights_path(tmp_path / "run", 0).exists()
    worker.train_trial(config, images)
    assert curves == [[1], [1], [1, 2, 3]]


@pytest.mark.parametrize("numbers", [2**50, 2**41])
def test_too_little_memory_is_told_apart_from_other_failures(
    numbers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, object]] = []
    monkeypatch.setattr(worker.tune, "report", reports.append)
    monkeypatch.setattr(worker, "train", lambda *_, **__: torch.empty(numbers))
    run = RunConfig.from_data({"data": {"num_train": 60, "num_validation": 30}})
    config = {"trial": 0, "run": json.dumps(run.to_data()), "folder": str(tmp_path / "run")}
    config |= {"rungs": [], "seconds": 60.0, "threads": 1, "device": "cpu"}
    worker.train_trial(config, load_data(run.data, run.model))
    outcome = json.loads(str(reports[-1][worker.OUTCOME]))
    assert outcome["state"] == "failed"
    assert outcome["out_of_memory"]
    monkeypatch.setattr(worker, "train", lambda *_, **__: {}["missing"])
    worker.train_trial(config, load_data(run.data, run.model))
    assert not json.loads(str(reports[-1][worker.OUTCOME]))["out_of_memory"]


def test_a_full_disk_is_no_failure_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search ends, and the trial can be resumed once there is room."""
    reports: list[dict[str, object]] = []
    monkeypatch.setattr(worker.tune, "report", reports.append)
    run = RunConfig.from_data({"data": {"num_train": 60, "num_validation": 30}})
    config = {"trial": 0, "run": json.dumps(run.to_data()), "folder": str(tmp_path)}
    curve_path(tmp_path, 0).parent.mkdir()
    curve_path(tmp_path, 0).symlink_to("/dev/full")
    config |= {"rungs": [], "seconds": None, "threads": 1, "device": "cpu"}
    worker.train_trial(config, load_data(run.data, run.model))
    assert reports == [{worker.STORAGE_PROBLEM: "No space left on device", "trial": 0}]
