"""A trial that two processes train together, over gloo, in a real search."""

import os
import signal
from pathlib import Path

import pytest
import ray
from driver_process import below, finished, num_epochs, start, wait_for_epochs, workers_of

import reports
import search
from castling.files import write_yaml
from search.config import SearchConfig
from search.display import Display
from search.execution.peers import NAME


EPOCHS = 30
SETTINGS = {
    "train.epochs": EPOCHS,
    "train.checkpoint_minutes": 0.001,
    "data.num_train": 256,
    "data.num_validation": 200,
}
CONFIG = SearchConfig.from_data(
    {
        "trials": 1,
        "workers": 1,
        "sampler": "random",
        "workers_per_trial": 2,
        "set": SETTINGS,
        "budget": {"max_macs": "200k"},
    }
)


class Free(Display):
    """Notes how many CPUs Ray has left while a trial trains."""

    def __init__(self) -> None:
        self.cpus: set[float] = set()

    def progress(self, *_: object) -> None:
        self.cpus.add(ray.available_resources().get("CPU", 0.0))


@pytest.mark.slow
def test_two_processes_train_a_trial_as_one_does(ray_session: None, tmp_path: Path) -> None:
    free, config = Free(), CONFIG.replace(trials=2)
    held = ray.cluster_resources()["CPU"] - 2.0
    assert search.run(config, out=tmp_path / "two", display=free).trained == 2
    assert free.cpus == {held}, "Ray holds a core for each process"
    search.run(config.replace(workers_per_trial=1), out=tmp_path / "one")
    two, one = (reports.load(tmp_path / name).set_index("trial") for name in ("two", "one"))
    assert list(two.config_id) == list(one.config_id)
    for trial in two.index:
        assert two.top1[trial] == pytest.approx(one.top1[trial], abs=0.06)
        assert two.loss[trial] == pytest.approx(one.loss[trial], abs=0.1)
    curves = reports.load_curves(tmp_path / "two")
    assert list(curves.epoch) == [*range(1, EPOCHS + 1)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("which", ["peer", "worker"])
def test_a_killed_process_brings_the_trial_back_from_its_checkpoint(
    which: str, tmp_path: Path
) -> None:
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    write_yaml(recipe, CONFIG.to_data())
    with start(run, str(recipe)) as driver:
        wait_for_epochs(run, 5, seconds=150.0)
        peers = [pid for pid, command in below(driver.pid).items() if NAME in command]
        assert len(peers) == 1
        os.kill(peers[0] if which == "peer" else workers_of(driver.pid)[0], signal.SIGKILL)
        output, message = driver.communicate(timeout=200)
    assert driver.returncode == 0, message
    assert "raylet" not in output, "Ray's lines are not among the results"
    assert "Traceback" not in message
    assert list(finished(run).index) == [0]
    assert list(reports.load_curves(run).epoch) == [*range(1, EPOCHS + 1)]
    assert num_epochs(run) <= EPOCHS + 10, "went on from its checkpoint"
