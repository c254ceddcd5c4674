"""Trainings that end within an epoch, killed or asked to end, go on bit for bit."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from castling.config import RunConfig
from castling.model.storage import read_tensors
from castling.training.callbacks import Checkpoints
from castling.training.checkpoint import previous_checkpoint
from castling.training.data import TrainingData, load_data
from castling.training.loop import Trained, train
from castling.training.trainer import Callback, Trainer


CHILD = """
import json, sys
from pathlib import Path
import torch
from castling.config import RunConfig
from castling.training.data import load_data
from castling.training.loop import train
from castling.training.trainer import Callback

torch.set_num_threads(1)
run = RunConfig.from_data(json.loads(sys.argv[1]))

class Steps(Callback):
    def on_step(self, trainer):
        print(trainer.state().position.step, flush=True)

train(run, load_data(run.data, run.model), callbacks=[Steps()], checkpoint=Path(sys.argv[2]))
"""


class Killed(BaseException):
    pass


class Kill(Callback):
    """Ends the training in an epoch after so many calls, as a power cut would."""

    def __init__(self, epochs: int, calls: int) -> None:
        self.epochs, self.calls = epochs, calls

    def on_step(self, trainer: Trainer) -> None:
        if trainer.epochs == self.epochs:
            self.calls -= 1
            if self.calls < 0:
                raise Killed


@pytest.fixture(scope="module")
def long(everything_on: RunConfig) -> RunConfig:
    """Drop path, every augmentation, bfloat16, an average, the best epoch; 6 steps an epoch."""
    fields = {"epochs": 3, "batch_size": 16, "checkpoint_minutes": 1e-9}
    fields |= {"ema_decay": 0.9, "keep": "best", "accumulation": 2}
    return everything_on.replace(train=everything_on.train.replace(**fields))


def same(one: Trained, other: Trained) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert ours.keys() == theirs.keys()
    timed = {"train_seconds", "images_per_s"}
    values = [
        {name: value for name, value in each.metrics.metrics.items() if name not in timed}
        for each in (one, other)
    ]
    return values[0] == values[1] and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "muon", "lion", "sgd", "nadamw"])
def test_a_training_goes_on_within_an_epoch(
    optimizer: str, long: RunConfig, digits: TrainingData, tmp_path: Path
) -> None:
    run = long.replace(train=long.train.replace(optimizer=optimizer))
    whole = train(run, digits)
    path = tmp_path / "checkpoint.safetensors"
    for epochs, calls, step in ((0, 3, 3), (1, 2, 2), (1, 5, 6)):  # the last in a validation
        with pytest.raises(Killed):
            train(run, digits, callbacks=[Kill(epochs, calls)], checkpoint=path)
        position = json.loads(read_tensors(path)[1]["position"])
        assert position["step"] == step
    assert same(train(run, digits, checkpoint=path), whole)


def test_float16_goes_on_with_its_scale(
    long: RunConfig, digits: TrainingData, tmp_path: Path
) -> None:
    run = long.replace(train=long.train.replace(precision="float16"))
    whole = train(run, digits)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Killed):
        train(run, digits, callbacks=[Kill(1, 3)], checkpoint=path)
    assert "scale" in json.loads(read_tensors(path)[1]["scaler"])
    assert same(train(run, digits, checkpoint=path), whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_within_an_epoch_goes_on_bit_for_bit(
    number: int, long: RunConfig, tmp_path: Path
) -> None:
    data = load_data(long.data, long.model)
    whole = train(long, data)
    path = tmp_path / "checkpoint.safetensors"
    command = [sys.executable, "-c", CHILD, json.dumps(long.to_data()), str(path)]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(10):
            assert process.stdout.readline()
        process.send_signal(number)
        asked = time.monotonic()
        process.wait(30)
        ended = time.monotonic()
    assert process.returncode == -number, f"after {asked - started:.1f} s"
    assert ended - asked < 30.0
    readable = path if path.exists() else previous_checkpoint(path)
    assert "position" in read_tensors(readable)[1]
    assert same(train(long, data, checkpoint=path), whole)


def test_signals_are_given_back(tiny: RunConfig, digits: TrainingData, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    inside = []

    class Look(Callback):
        def on_step(self, _: Trainer) -> None:
            inside.append(signal.getsignal(signal.SIGTERM))

    train(tiny, digits, callbacks=[Look()], checkpoint=tmp_path / "checkpoint.safetensors")
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert inside[0] not in before


def test_an_error_of_the_writing_thread_ends_the_training(
    long: RunConfig, digits: TrainingData, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file"):
        train(long, digits, checkpoint=tmp_path / "file" / "checkpoint.safetensors")


def test_few_checkpoints_are_written_within_the_minutes(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = Checkpoints._save

    def noted(checkpoints: Checkpoints, trainer: Trainer) -> None:
        saved.append(trainer.epochs)
        save(checkpoints, trainer)

    monkeypatch.setattr(Checkpoints, "_save", noted)
    train(tiny, digits, checkpoint=tmp_path / "checkpoint.safetensors", checkpoint_share=1.0)
    assert saved == [1, 2, 3, 4]
