"""`castling train --num-workers`: real processes by Ray Train, over gloo."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import castling
from castling.config import RunConfig
from castling.errors import ConfigError
from castling.files import write_yaml
from search.train import train_config


CASTLING = [sys.executable, "-c", "from search.cli import main; main()"]


def command(config: Path, out: Path, *more: object) -> list[str]:
    return [*CASTLING, "train", *map(str, (config, "--out", out, *more))]


def config_file(folder: Path, epochs: int) -> Path:
    train = {"epochs": epochs, "batch_size": 256, "checkpoint_minutes": 0.001}
    data = {"num_train": 512, "num_validation": 100}
    path = folder / "config.yaml"
    write_yaml(path, RunConfig.from_data({"train": train, "data": data}).to_data())
    return path


def workers_of(driver: int) -> list[int]:
    """The processes that train, of a command's Ray."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            title = (entry / "cmdline").read_bytes().decode(errors="replace")
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if "TrainWorker" in title and f"CASTLING_TEST={os.getpid()}".encode() in environment:
            found.append(int(entry.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_two_processes_train_as_one_and_a_killed_one_comes_back(tmp_path: Path) -> None:
    config, out, epochs = config_file(tmp_path, 40), tmp_path / "two", 40
    with subprocess.Popen(
        command(config, out, "--num-workers", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CASTLING_TEST": str(os.getpid())},
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline().startswith("epoch 1/")
        os.kill(workers_of(training.pid)[-1], signal.SIGKILL)
        rest = training.stdout.read()
        assert training.stderr is not None
        problems = training.stderr.read()
    assert training.returncode == 0, problems
    lines = [line for line in rest.splitlines() if line.startswith("epoch ")]
    assert [int(line.split()[1].rstrip(":")) for line in lines] == [*range(2, epochs + 1)]
    numbers = [
        json.loads(line)["epoch"] for line in (out / "curve.jsonl").read_text().splitlines()
    ]
    assert len(numbers) - epochs <= 10, "went on from its checkpoint, not from the beginning"
    alone = train_config(config, tmp_path / "one")
    written = json.loads((out / "metrics.json").read_text())
    assert written["validation"]["top1"] == pytest.approx(alone.validation["top1"], abs=0.05)
    assert castling.load(out).config == castling.load(tmp_path / "one").config
    assert {path.name for path in out.iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_workers": 0}, "must be at least 1"),
        ({"num_workers": -1}, "must be at least 1"),
        ({"address": "127.0.0.1:9"}, "must be a Ray cluster that answers"),
    ],
)
def test_what_cannot_train_is_one_sentence(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        train_config(config_file(tmp_path, 1), tmp_path / "out", **settings)


def test_an_address_is_checked_where_ray_already_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="must be a Ray cluster that answers"):
        train_config(config_file(tmp_path, 1), tmp_path / "out", address="127.0.0.1:9")
