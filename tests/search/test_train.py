"""`castling train` without enough memory, and asked to end within an epoch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

import reports
from castling.data.batches import Batch
from castling.errors import RunFolderError
from castling.model.check import read_run_config
from castling.model.storage import read_tensors
from castling.training.metrics import EpochMetrics
from castling.training.step import Stepper
from reports.model_metrics import METRICS_FILE
from search.cli import app
from search.train import CHECKPOINT_FILE, train_config


def write_config(folder: Path, **fields: object) -> Path:
    train = {"epochs": 2, "batch_size": 32, **fields}
    data = {"train": train, "data": {"num_train": 90, "num_validation": 60}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def starve(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let a forward pass of more than so many images run out of memory."""
    loss = Stepper._loss

    def starved(stepper: Stepper, batch: Batch, progress: float) -> Tensor:
        if len(batch.labels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(stepper, batch, progress)

    monkeypatch.setattr(Stepper, "_loss", starved)


def test_a_batch_too_large_for_memory_is_divided_said_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = write_config(tmp_path), tmp_path / "out"
    starve(monkeypatch, most=8)
    result = CliRunner().invoke(app, ["train", str(config), "--out", str(out)])
    assert result.exit_code == 0, result.output
    said = "".join(result.output.split("\n"))
    assert "passes the model in 2 parts" in said
    assert "passes the model in 4 parts" in said
    assert "8 parts" not in said
    assert read_run_config(out).train.accumulation == 4
    assert read_run_config(out).train.batch_size == 32


def test_one_image_too_large_for_memory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starve(monkeypatch, most=0)
    with pytest.raises(torch.OutOfMemoryError):
        train_config(write_config(tmp_path, batch_size=2), tmp_path / "out")


def test_sigterm_leaves_a_checkpoint_says_how_to_go_on_and_exits_as_interrupted(
    tmp_path: Path,
) -> None:
    config, out = write_config(tmp_path, epochs=3000, batch_size=16), tmp_path / "out"
    command = [sys.executable, "-m", "search", "train", str(config), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "epoch 1" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert time.monotonic() - asked < 30.0
    assert process.returncode == 130, errors
    assert f"castling train {config} --out {out} --resume" in errors.replace("\n", "")
    notes = read_tensors(out / CHECKPOINT_FILE)[1]
    assert "position" in notes


def test_a_job_that_slurm_starts_again_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = write_config(tmp_path, epochs=2), tmp_path / "out"
    command = ["train", str(config), "--out", str(out)]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert CliRunner().invoke(app, command).exit_code == 0  # nothing was begun before
    (out / METRICS_FILE).unlink()  # as if it had not ended
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert isinstance(CliRunner().invoke(app, command).exception, RunFolderError)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (out / METRICS_FILE).exists()


def test_the_curve_of_a_training_is_read_as_that_of_a_run(tmp_path: Path) -> None:
    config, out = write_config(tmp_path, epochs=3), tmp_path / "out"
    epochs: list[EpochMetrics] = []
    train_config(config, out, on_epoch=epochs.append)
    curves = reports.load_curves(out)
    assert list(zip(curves.trial, curves.epoch, strict=True)) == [(0, 1), (0, 2), (0, 3)]
    assert list(curves.loss) == [epoch.metrics["loss"] for epoch in epochs]
    layers = curves.layers()
    assert len(layers) == 3 * len(read_run_config(out).model.blocks)
    assert set(layers.epoch) == {1, 2, 3}
    assert reports.load_curves(out, trials=[1]).empty
