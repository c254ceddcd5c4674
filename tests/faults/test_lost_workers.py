"""Workers and machines are lost, or hang: their trials go on or fail, and others do not care."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import ray
from driver_process import finished, num_epochs, start, wait_for_epochs, workers_of
from plugin import install
from ray.cluster_utils import Cluster

import reports
import search
from reports.curves import read_curve


pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
EPOCHS = 40
RECIPE = ["smoke", "--trials", "4", "--workers", "2", "--set", f"train.epochs={EPOCHS}"]


def epochs_of(run: Path, trial: int) -> list[int]:
    return [epoch.epoch for epoch in read_curve(run, trial)]


def test_a_killed_workers_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with start(run, *RECIPE) as driver:
        wait_for_epochs(run, 10)
        os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
        _, message = driver.communicate(timeout=600)
    assert driver.returncode == 0, message
    assert len(finished(run)) == 4
    for trial in range(4):
        assert epochs_of(run, trial) == [*range(1, EPOCHS + 1)]


def test_a_worker_that_is_killed_again_and_again_fails_its_trial_and_no_other(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with start(run, *RECIPE, "--workers", "1") as driver:
        for _ in range(2):
            wait_for_epochs(run, num_epochs(run) + 3)
            os.kill(workers_of(driver.pid)[0], signal.SIGKILL)
        _, message = driver.communicate(timeout=600)
    assert driver.returncode == 0, message
    trials = reports.load(run)
    assert sorted(trials.state) == ["failed", "trained", "trained", "trained"]
    assert trials[trials.state == "failed"].reason.iloc[0].startswith("the worker died")


@pytest.fixture
def three_nodes() -> Iterator[Cluster]:
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(3):
        cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_machines_trial_goes_on_on_another(three_nodes: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def lose() -> None:
        wait_for_epochs(run, 15, seconds=300.0)
        three_nodes.remove_node(three_nodes.list_all_nodes()[-1], allow_graceful=False)

    loss = threading.Thread(target=lose)
    loss.start()
    summary = search.run(
        "smoke",
        out=run,
        address=three_nodes.address,
        trials=6,
        workers=3,
        settings={"train.epochs": EPOCHS},
    )
    loss.join()
    assert (summary.trained, summary.failed) == (6, 0)
    for trial in range(6):
        assert epochs_of(run, trial) == [*range(1, EPOCHS + 1)]


RECIPE_OF_AN_OPERATOR = """
space: digits
trials: 3
workers: {workers}
{settings}
set: {{train.epochs: 1, train.batch_size: 64}}
dimensions:
  - {{target: "model.blocks.*.operator", choices: [softmax, average], tie: all}}
points: [{{"model.blocks.*.operator": average}}]
"""
HANGS = "AverageMixing.forward = lambda self, x: __import__('time').sleep(1e6)"
TAKES_ALL_MEMORY = """
def forward(self, x):
    if self.training and len(x) > 32:
        torch.empty(2**50)
    return x
AverageMixing.forward = forward
"""


def search_with(code: str, folder: Path, workers: int, settings: str) -> pd.DataFrame:
    """Search with the operator `average` of the documentation's page, changed by some code."""
    site = folder / "site"
    install("adding-an-operator.md", site, f"\nimport torch\n\n{code}\n")
    recipe, run = folder / "recipe.yaml", folder / "run"
    recipe.write_text(RECIPE_OF_AN_OPERATOR.format(workers=workers, settings=settings))
    places = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    with start(run, str(recipe), environment=places) as driver:
        _, message = driver.communicate(timeout=600)
    assert driver.returncode == 0, message
    trials = reports.load(run)
    assert len(trials) == 3
    return trials.set_index("model.blocks.*.operator")


def test_a_trial_that_hangs_fails_in_time_and_no_other(tmp_path: Path) -> None:
    trials = search_with(HANGS, tmp_path, workers=1, settings="trial_minutes: 0.2")
    hung, others = trials.loc[["average"]], trials.drop("average")
    assert (hung.state == "failed").all()
    assert (hung.reason == "took longer than trial_minutes, 0.2").all()
    assert len(others)
    assert (others.state == "trained").all()


def test_a_trial_that_runs_out_of_memory_fails_and_no_other(tmp_path: Path) -> None:
    trials = search_with(TAKES_ALL_MEMORY, tmp_path, workers=2, settings="")
    starved, others = trials.loc[["average"]], trials.drop("average")
    assert (starved.state == "failed").all()
    assert starved.reason.str.contains("allocate memory").all()
    assert len(others)
    assert (others.state == "trained").all()


def test_divided_batches_save_a_trial_that_ran_out_of_memory(tmp_path: Path) -> None:
    trials = search_with(
        TAKES_ALL_MEMORY, tmp_path, workers=2, settings="double_accumulation: true"
    )
    assert (trials.state == "trained").all()
    saved, others = trials.loc[["average"]], trials.drop("average")
    assert (saved.reason == "trained with each batch in 2 parts, for want of memory").all()
    assert (others.reason == "").all()
