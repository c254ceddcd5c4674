import io
import json
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from driver_process import below, num_epochs, start, wait_for_epochs, workers_of
from guarded_database import PASSWORD, guarded_url
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

import castling
import reports
import search
from castling import scratch
from castling.errors import ClusterError, ConfigError, RunFolderError
from castling.model.check import read_run_config
from reports.database import PASSWORD_VARIABLES, VARIABLE
from reports.export import evaluate_folder, export
from reports.manifest import Manifest
from reports.page import write_report
from reports.records import CHECKPOINTS_FOLDER, CURVES_FOLDER, Record
from search.commands.display import TerminalDisplay
from search.display import Display
from search.stoppers import STOPPERS, StopperSpec
from search.study.run_folder import LOCK_FILE
from search.train import train_config
from space.cost import cost


pytestmark = pytest.mark.timeout(180)


def test_search_trains_as_many_as_asked_within_the_budget(small_run: Path) -> None:
    trials = reports.load(small_run, refused=True)
    trained = trials[trials.state == "trained"]
    assert len(trained) == 3
    assert (trained.macs <= 400_000).all()
    assert (trained.fidelity == 1.0).all()
    assert trained.top1.between(0.0, 1.0).all()
    assert (trials[trials.macs > 400_000].state == "refused").all()


def test_every_epoch_is_in_the_curve(small_run: Path) -> None:
    for row in reports.load(small_run).itertuples():
        lines = (small_run / CURVES_FOLDER / f"{row.trial:05d}.jsonl").read_text().splitlines()
        epochs = [json.loads(line) for line in lines]
        assert [epoch["epoch"] for epoch in epochs] == [1, 2]
        assert epochs[-1]["metrics"]["top1"] == row.top1


def test_the_fronts_weights_are_kept_and_no_others(small_run: Path) -> None:
    kept = {int(path.name.split(".")[0]) for path in (small_run / CHECKPOINTS_FOLDER).iterdir()}
    assert kept == set(reports.load(small_run).pareto.front().trial)


def test_exported_model_has_the_recorded_accuracy_and_cost(
    small_run: Path, tmp_path: Path
) -> None:
    best = reports.load(small_run).pareto.best(max_macs="400k")
    metrics = export(small_run, tmp_path / "best", max_macs="400k")
    assert metrics.validation["top1"] == best.top1
    assert metrics.macs == best.macs <= 400_000
    assert metrics.params == best.params
    assert metrics.masks == ""
    assert evaluate_folder(tmp_path / "best").is_reproduced
    model = castling.load(tmp_path / "best")
    assert not model.training
    assert not any("auxiliary" in name for name in model.state_dict())
    castling.save(model.half(), tmp_path / "best", read_run_config(tmp_path / "best"))
    assert evaluate_folder(tmp_path / "best").validation["top1"] == pytest.approx(
        best.top1, abs=0.02
    )


def test_an_export_says_that_its_masks_were_alive(ray_session: None, tmp_path: Path) -> None:
    settings = {"train.epochs": 1, "model.blocks.*.mask.shape": "constant"}
    search.run("smoke", out=tmp_path / "run", trials=1, workers=1, settings=settings)
    [row] = reports.load(tmp_path / "run").itertuples()
    metrics = export(tmp_path / "run", tmp_path / "best")
    assert metrics.validation_branch == row.top1_branch
    assert metrics.mask_density == row.mask_density
    assert metrics.mask_threshold is not None
    assert metrics.mask_threshold < 1.0
    assert "the masks were alive when the training ended" in metrics.masks
    assert evaluate_folder(tmp_path / "best").masks == metrics.masks


def test_resuming_a_finished_search_trains_nothing_anew_and_can_extend_it(
    small_run: Path, ray_session: None, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    before = reports.load(run)
    summary = search.run(None, out=run, resume=True, trials=4, workers=1)
    assert summary.trained == 4
    after = reports.load(run)
    assert after.loc[before.index, before.columns].equals(before)


NARROW_LEVIT = {"embed_dim": [16, 24, 32], "key_dim": 4, "num_heads": [1, 2, 3]}


def write_digits(folder: Path) -> None:
    """Write class folders of real images: the first three of scikit-learn's digits."""
    bunch = load_digits()
    for number, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        if label < 3 and number < 300:
            place = folder / f"digit{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype("uint8")).save(place / f"{number}.png")


def test_a_backbone_is_searched_on_a_folder_of_images_from_given_weights(
    ray_session: None, tmp_path: Path
) -> None:
    write_digits(tmp_path / "images")
    checkpoint = tmp_path / "levit.pth"
    torch.save(
        timm.create_model("levit_128", num_classes=3, img_size=32, **NARROW_LEVIT).state_dict(),
        checkpoint,
    )
    run = tmp_path / "run"
    summary = search.run(
        "levit_128",
        out=run,
        images=tmp_path / "images",
        trials=1,
        workers=1,
        max_macs="140k",
        settings={
            "model.image_size": 32,
            "model.options": NARROW_LEVIT,
            "train.initial": str(checkpoint),
            "train.epochs": 2,
            "train.batch_size": 16,
        },
    )
    assert (summary.trained, summary.failed) == (1, 0)
    trials = reports.load(run)
    assert (trials.macs <= 140_000).all()
    metrics = export(run, tmp_path / "best", max_macs="140k")
    assert evaluate_folder(tmp_path / "best").is_reproduced
    model = castling.load(tmp_path / "best")
    assert model.config.backbone == "levit_128"
    assert model.config.num_classes == 3
    assert metrics.macs == cost(model.config).macs


@pytest.mark.parametrize(
    ("workers", "signals"),
    [
        (1, (signal.SIGKILL,)),
        pytest.param(2, (signal.SIGKILL, signal.SIGINT, signal.SIGTERM), marks=pytest.mark.slow),
    ],
)
def test_interrupted_search_is_resumed_without_repeating_a_finished_trial(
    workers: int, signals: tuple[signal.Signals, ...], ray_session: None, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trials = 2 * workers
    options = ["smoke", "--trials", str(trials), "--set", "train.epochs=12"]
    finished = []
    for how in signals:
        enough = max(12 * workers, num_epochs(run)) + 2
        with start(
            run,
            *(*options, "--workers", str(workers)),
            environment=dict.fromkeys(PASSWORD_VARIABLES, "sqlite:////hunter2"),
            umask=0o077,
        ) as driver:
            wait_for_epochs(run, enough)
            for pid in below(driver.pid):
                assert b"hunter2" not in Path(f"/proc/{pid}/environ").read_bytes()
            os.kill(driver.pid, how)
            _, message = driver.communicate(timeout=60)
        if how == signal.SIGKILL:
            assert driver.returncode == -how
        else:
            assert driver.returncode == 130
            assert f"castling search --out {run} --resume" in message
            assert "Traceback" not in message
        assert not [path for path in [run, *run.rglob("*")] if path.stat().st_mode & 0o077]
        before = reports.load(run)
        finished.append(before[before.state == "trained"].set_index("trial"))
        options = ["--resume"]
    assert 1 <= len(finished[0]) <= len(finished[-1]) < trials
    search.run(None, out=run, resume=True)
    after = reports.load(run).set_index("trial")
    assert (after.state == "trained").all()
    assert len(after) == trials
    for before in finished:
        same = after.loc[list(before.index)]
        assert list(same.finished_at) == list(before.finished_at)
        assert list(same.top1) == list(before.top1)


@pytest.mark.slow
def test_killed_worker_fails_its_trial_and_no_other(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(
        run, "smoke", "--trials", "2", "--workers", "1", "--set", "train.epochs=20"
    ) as driver:
        wait_for_epochs(run, 2)
        [worker] = workers_of(driver.pid)
        os.kill(worker, signal.SIGKILL)
        _, message = driver.communicate(timeout=120)
    assert driver.returncode == 0
    assert "Traceback" not in message
    trials = reports.load(run)
    assert sorted(trials.state) == ["failed", "trained"]
    assert trials[trials.state == "failed"].reason.iloc[0].startswith("the worker died")


def test_diverging_trial_is_recorded_as_failed_with_its_reason(
    ray_session: None, tmp_path: Path
) -> None:
    settings = {"train.epochs": 2, "train.learning_rate": 1e30}
    summary = search.run("smoke", out=tmp_path / "run", trials=1, workers=1, settings=settings)
    assert (summary.trained, summary.failed) == (0, 1)
    trials = reports.load(tmp_path / "run")
    assert trials.reason.iloc[0].startswith("DivergedError: ")
    assert trials.pareto.front().empty


def test_a_databases_password_is_used_and_kept_nowhere(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = tmp_path / "run", tmp_path / "study.db"
    small = {"out": run, "trials": 1, "workers": 1, "settings": {"train.epochs": 1}}

    def refused(hint: str, **arguments: object) -> None:
        with pytest.raises(ConfigError, match=hint) as caught:
            search.run(**arguments)
        assert PASSWORD not in str(caught.value)
        assert "\n" not in str(caught.value)

    hint = "set CASTLING_STORAGE to the URL with its password"
    refused(hint, recipe="smoke", storage=guarded_url(file), **small)
    refused(r"for nas:\*\*\*", recipe="smoke", storage=guarded_url(file, "not /@ it"), **small)
    assert not run.exists()
    assert search.run("smoke", storage=guarded_url(file, PASSWORD), **small).trained == 1
    for path in (path for path in run.rglob("*") if path.is_file()):
        assert not any(word in path.read_bytes() for word in (PASSWORD.encode(), b"s3cr%2Ft"))
    refused(hint, recipe=None, out=run, resume=True)
    other = guarded_url(tmp_path / "other.db", PASSWORD)
    refused("must be the run's own database", recipe=None, out=run, resume=True, storage=other)
    with monkeypatch.context() as place:
        place.setenv(VARIABLE, guarded_url(file, PASSWORD))
        assert search.run(None, out=run, resume=True).trained == 1
    older = Manifest.read(run).replace(storage=guarded_url(file, PASSWORD))
    older.write(run)  # as castling 0.1.0 did
    assert search.run(None, out=run, resume=True).trained == 1


def test_a_database_is_refused_to_a_run_with_a_journal(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be left out: this run keeps its study in its"):
        search.run(None, out=small_run, resume=True, storage=f"sqlite:///{tmp_path}/study.db")


def test_ray_that_does_not_start_is_a_failure_that_begins_nothing(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_TMPDIR", *scratch.VARIABLES, "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "/dev/null/none")
    monkeypatch.setattr(scratch, "FOLDERS", ())
    with pytest.raises(ClusterError, match=r"could not be started.*Not a directory.*set TMPDIR"):
        search.run("smoke", out=tmp_path / "run", trials=1)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {LOCK_FILE}


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1", "127.0.0.1:99999999", "ray://x"])
def test_address_of_no_cluster_is_bad_input_that_begins_nothing(
    address: str, no_ray: None, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="address: must be a Ray cluster that answers"):
        search.run("smoke", out=tmp_path / "run", trials=1, address=address)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {LOCK_FILE}


def test_recipe_is_needed_unless_a_run_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="needs a recipe"):
        search.run(None, out=tmp_path / "run")


def test_a_trial_is_stopped_for_good_and_recorded_at_its_fidelity(
    ray_session: None, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first_only = StopperSpec(
        summary="all but the first", goes_on=lambda _, others: not others, fractions=(0.3, 0.6)
    )
    output = io.StringIO()
    with STOPPERS.temporarily("first-only", first_only):
        summary = search.run(
            "smoke",
            out=run,
            trials=3,
            workers=1,
            stopper="first-only",
            settings={"train.epochs": 3},
            display=TerminalDisplay(Console(file=output, width=200)),
        )
        assert (summary.trained, summary.stopped, summary.failed) == (1, 2, 0)
        assert search.run(None, out=run, resume=True).stopped == 2
    trials = reports.load(run)
    assert list(trials.state) == ["trained", "stopped", "stopped"]
    assert list(trials.epochs) == [3, 1, 1]
    assert list(trials.epochs_planned) == [3, 3, 3]
    curves = reports.load_curves(run)
    assert list(curves.trial.value_counts().sort_index()) == [3, 1, 1]
    stopped = curves[curves.trial == 1].iloc[-1]
    assert (stopped.top1, stopped.loss) == (trials.top1[1], trials.loss[1])
    assert list(trials.pareto.front().trial) == list(trials.pareto.trained().trial) == [0]
    assert [path.name for path in (run / CHECKPOINTS_FOLDER).iterdir()] == ["00000.safetensors"]
    assert "2/3 trial 1 stopped after 1 of 3 epochs: top1 " in output.getvalue()
    with pytest.raises(RunFolderError, match="has no weights of trial 1"):
        export(run, tmp_path / "best", trial=1)
    page = write_report(run)[0].read_text()
    assert "1 trained, 2 stopped" in page


class Interrupting(Display):
    """Presses Ctrl-C when so many records have come."""

    def __init__(self, after: int) -> None:
        self._left = after

    def record(self, record: Record) -> None:  # noqa: ARG002 - the display's signature
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_an_interrupted_search_stops_the_trials_that_the_uninterrupted_one_does(
    ray_session: None, tmp_path: Path
) -> None:
    options = {"trials": 8, "workers": 1, "stopper": "pareto", "settings": {"train.epochs": 8}}
    search.run("smoke", out=tmp_path / "whole", **options)
    run = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        search.run("smoke", out=run, display=Interrupting(2), **options)
    for after in (4, 3):  # to begin and to end is a record each
        with pytest.raises(KeyboardInterrupt):
            search.run(None, out=run, resume=True, display=Interrupting(after))
    search.run(None, out=run, resume=True)
    columns = ["trial", "state", "macs", "top1", "loss", "epochs", "config_id"]
    expected, found = (reports.load(tmp_path / name)[columns] for name in ("whole", "parts"))
    assert set(expected.state) == {"trained", "stopped"}
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.slow
def test_repeats_are_recorded_and_the_median_is_exported_and_trained_again(
    ray_session: None, tmp_path: Path
) -> None:
    settings = {"train.epochs": 2, "train.seed": "trial", "data.num_train": 300}
    run = tmp_path / "run"
    summary = search.run("smoke", out=run, trials=2, repeats=3, settings=settings)
    assert (summary.trained, summary.failed) == (2, 0)
    trials, curves = reports.load(run), reports.load_curves(run, repeats=True)
    ends = curves[curves.epoch == 2].groupby("trial").top1
    assert list(ends.mean()) == pytest.approx(list(trials.top1))
    assert list(ends.std()) == pytest.approx(list(trials.top1_std))
    assert not list((run / CHECKPOINTS_FOLDER).glob("*.training*"))
    number = int(trials.pareto.front().trial.iloc[0])
    metrics = export(run, tmp_path / "best", trial=number)
    assert metrics.validation["top1"] == ends.median()[number]
    assert evaluate_folder(tmp_path / "best").is_reproduced
    again = train_config(tmp_path / "best", tmp_path / "again")
    assert (again.validation, again.test) == (metrics.validation, metrics.test)
