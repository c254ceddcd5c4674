import json
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import pytest
import torch

from castling.config import DistillConfig, RunConfig
from castling.model.build import build
from castling.model.castle import castle
from castling.model.storage import read_tensors, save
from castling.training.data import load_data
from castling.training.loop import train
from castling.training.metrics import EpochMetrics
from castling.training.trainer import Trainer
from reports.curves import read_curve
from reports.records import curve_path, weights_path
from search.execution import worker


GOALS = {"seeds": [0], "objectives": [("top1", "max"), ("macs", "min")]}


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
    config = {
        "trial": 0,
        "run": json.dumps(begun.to_data()),
        **GOALS,
        "folder": str(tmp_path / "run"),
    }
    worker.train_trial(
        {**config, "rungs": [], "seconds": None, "threads": 1, "processes": 1, "gpus": 0.0},
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
    config = {
        "trial": 0,
        "run": json.dumps(run.to_data()),
        **GOALS,
        "folder": str(tmp_path / "run"),
    }
    config |= {"rungs": [1, 3, 4], "seconds": None, "threads": 1, "processes": 1, "gpus": 0.0}
    with pytest.raises(SystemExit):
        worker.train_trial(config, images)
    assert not weights_path(tmp_path / "run", 0).exists()
    worker.train_trial(config, images)
    assert curves == [[1], [1], [1, 2, 3]]


SEEDS = [3, 1, 2]
TIMES = {"train_seconds", "images_per_s", "train_seconds_std", "images_per_s_std"}


class Kill(BaseException):
    pass


def repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, last: tuple[int, int] | None = None
) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """Train a trial three times; return its outcome, and the repeats and epochs that were trained.

    Args:
        folder: of the run.
        monkeypatch: takes the place of Ray's report.
        last: the repeat and epoch after which the worker is killed.
    """
    data = {"data": {"num_train": 60, "num_validation": 30}, "train": {"epochs": 3}}
    run = RunConfig.from_data(data)
    reports: list[dict[str, Any]] = []
    trained: list[tuple[int, int]] = []
    append = worker.Curve.on_epoch

    def on_epoch(curve: worker.Curve, trainer: Trainer, metrics: EpochMetrics) -> None:
        append(curve, trainer, metrics)
        trained.append((SEEDS.index(trainer.run.train.seed), metrics.epoch))
        if trained[-1] == last:
            raise Kill

    config = {"trial": 0, "run": json.dumps(run.to_data()), **GOALS, "folder": str(folder)}
    config |= {
        "seeds": SEEDS,
        "rungs": [],
        "seconds": None,
        "threads": 1,
        "processes": 1,
        "gpus": 0.0,
    }
    with monkeypatch.context() as place:
        place.setattr(worker.tune, "report", reports.append)
        place.setattr(worker.Curve, "on_epoch", on_epoch)
        if last is None:
            worker.train_trial(config, load_data(run.data, run.model))
            return json.loads(str(reports[-1][worker.OUTCOME])), trained
        with pytest.raises(Kill):
            worker.train_trial(config, load_data(run.data, run.model))
    return {}, trained


def test_repeats_give_mean_and_spread_and_the_weights_of_the_median(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, trained = repeated(tmp_path, monkeypatch)
    assert trained[:9] == [(repeat, epoch) for repeat in range(3) for epoch in (1, 2, 3)]
    assert trained[9:] == []  # the median one is loaded, not trained again
    ends = [read_curve(tmp_path, 0, repeat)[-1] for repeat in range(3)]
    values = [end.metrics["top1"] for end in ends]
    assert len({end.metrics["loss"] for end in ends}) == 3
    assert outcome["metrics"]["top1"] == pytest.approx(fmean(values))
    assert outcome["metrics"]["top1_std"] == pytest.approx(stdev(values))
    losses = [end.metrics["loss"] for end in ends]
    assert outcome["metrics"]["loss_std"] == pytest.approx(stdev(losses))
    assert outcome["epochs"] == 3
    kept = SEEDS.index(outcome["seed"])
    assert values[kept] == median(values)
    assert read_curve(tmp_path, 0) == read_curve(tmp_path, 0, kept)
    run = RunConfig.from_data(
        {
            "data": {"num_train": 60, "num_validation": 30},
            "train": {"epochs": 3, "seed": outcome["seed"]},
        }
    )
    anew = castle(train(run, load_data(run.data, run.model), device="cpu").model).state_dict()
    weights = read_tensors(weights_path(tmp_path, 0))[0]
    assert all(torch.equal(anew[name], weights[name]) for name in anew)


@pytest.mark.parametrize("last", [(0, 2), (1, 3), (2, 1)])
def test_a_killed_worker_goes_on_within_a_repeat(
    last: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, trained = repeated(tmp_path / "whole", monkeypatch)
    _, first = repeated(tmp_path / "parts", monkeypatch, last=last)
    outcome, rest = repeated(tmp_path / "parts", monkeypatch)
    assert first[-1] == last
    assert rest[0][0] == last[0]  # no finished repeat is trained again
    assert {*first, *rest} == {*trained}
    assert len(first) + len(rest) <= len(trained) + last[1]
    for one in (outcome, whole):
        one["metrics"] = {name: v for name, v in one["metrics"].items() if name not in TIMES}
    assert outcome == whole
    files = [weights_path(tmp_path / part, 0) for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("numbers", [2**50, 2**41])
def test_too_little_memory_is_told_apart_from_other_failures(
    numbers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, object]] = []
    monkeypatch.setattr(worker.tune, "report", reports.append)
    monkeypatch.setattr(worker, "train", lambda *_, **__: torch.empty(numbers))
    run = RunConfig.from_data({"data": {"num_train": 60, "num_validation": 30}})
    config = {
        "trial": 0,
        "run": json.dumps(run.to_data()),
        **GOALS,
        "folder": str(tmp_path / "run"),
    }
    config |= {"rungs": [], "seconds": 60.0, "threads": 1, "processes": 1, "gpus": 0.0}
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
    config = {"trial": 0, "run": json.dumps(run.to_data()), **GOALS, "folder": str(tmp_path)}
    curve_path(tmp_path, 0).parent.mkdir()
    curve_path(tmp_path, 0).symlink_to("/dev/full")
    config |= {"rungs": [], "seconds": None, "threads": 1, "processes": 1, "gpus": 0.0}
    worker.train_trial(config, load_data(run.data, run.model))
    assert reports == [{worker.STORAGE_PROBLEM: "No space left on device", "trial": 0}]
