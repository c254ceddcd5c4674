"""Whatever is written when the driver dies, the resumed search is the one that never died.

Training is made up, all else is real: the searcher, the study in its journal, the stopper's rungs,
the curves on disk. The driver dies at any of its writes, before it, after it, or amid it.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from epochs import epoch_metrics
from hypothesis import given, settings, strategies as st
from optuna.storages.journal import JournalFileBackend
from search_bridge import Bridge, bridge

from castling.config import RunConfig
from castling.files import append_line
from castling.model.check import digest
from castling.training.metrics import EpochMetrics
from reports.curves import read_curve
from reports.records import Record, TrialState, curve_path
from search.config import SearchConfig
from search.execution.worker import CURVE, OUTCOME
from search.stoppers import STOPPERS
from search.study.storage import open_storage, open_study
from search.study.trial import Outcome


TRIALS, EPOCHS, CHECKPOINT_EVERY = 6, 8, 3


class Killed(BaseException):
    """What kill -9 is to a driver."""


@dataclass
class Death:
    """Comes at a write, counted from the driver's start."""

    at: int | None = None
    how: str = "before"
    writes: int = 0

    def comes_at(self, path: Path, write: Callable[[], None]) -> None:
        """Write to the end of a file; of the write that death comes at a part is left."""
        before = path.stat().st_size if path.exists() else 0
        write()
        self.writes += 1
        if self.writes == self.at:
            after = path.stat().st_size
            os.truncate(
                path, {"before": before, "amid": (before + after) // 2}.get(self.how, after)
            )
            raise Killed


@contextmanager
def journal_writes(death: Death) -> Iterator[None]:
    """Let death come at the writes of the study's journal."""
    real = JournalFileBackend.append_logs

    def append(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        death.comes_at(Path(backend._file_path), partial(real, backend, logs))

    with (
        patch.object(JournalFileBackend, "append_logs", append),
        patch.object(os, "fsync", lambda _: None),  # the machine goes on, the process does not
    ):
        yield


def metrics(run: RunConfig, epoch: int) -> EpochMetrics:
    """Return an epoch of a made-up training, at a speed and to an end of the config's own."""
    rng = Random(digest(run))
    best, speed = rng.uniform(0.6, 0.99), rng.uniform(0.5, 3.0)
    top1 = best * epoch / (epoch + speed)
    return epoch_metrics(
        epoch, mask_density=(0.0,), loss=1.0 - top1, top1=top1, top1_branch=top1, images_per_s=1e3
    )


def train(driver: Bridge, given: dict[str, Any], death: Death) -> dict[str, Any] | None:
    """Do what a worker does; return its last report, None when it was stopped."""
    folder, trial = Path(given["folder"]), given["trial"]
    run = RunConfig.from_data(json.loads(given["run"]))
    checkpoint, path = folder / f"{trial}.checkpoint", curve_path(folder, trial)
    done = len(checkpoint.read_bytes()) if checkpoint.exists() else 0
    curve = read_curve(folder, trial)
    for epoch in range(done + 1, run.train.epochs + 1):
        now = metrics(run, epoch)
        death.comes_at(path, partial(append_line, path, now.to_line()))
        curve[epoch - 1 :] = [now]
        if epoch in given["rungs"]:
            report = {CURVE: json.dumps([each.to_data() for each in curve])}
            if not driver.searcher.goes_on("trial", report):
                return None
        if epoch % CHECKPOINT_EVERY == 0:
            checkpoint.write_bytes(bytes(epoch))
    return {OUTCOME: json.dumps(asdict(Outcome.of(curve[-1], TrialState.TRAINED)))}


def search(folder: Path, config: SearchConfig, death: Death) -> None:
    """Search with one worker until there are enough trials, or death comes."""
    with journal_writes(death):
        driver = bridge(folder, config)
        while isinstance(given := driver.searcher.suggest("trial"), dict):
            driver.searcher.on_trial_complete("trial", train(driver, given, death))
            assert driver.searcher.failure is None


def found(folder: Path, config: SearchConfig) -> list[Any]:
    """Return everything that a search has found but the time of day."""
    study = open_study(open_storage(folder, None), config.objectives)
    trials = []
    for trial in study.get_trials():
        attributes = dict(trial.user_attrs)
        record = attributes.pop("record", None)
        curve = read_curve(folder, trial.number)
        if record is not None:
            Record.from_data(record, "a test")
            record = {key: value for key, value in record.items() if not key.endswith("ed_at")}
        told = (trial.state, trial.values, trial.intermediate_values, trial.system_attrs)
        trials.append((trial.number, trial.params, told, record, attributes, curve))
    return trials


def config_of(sampler: str, stopper: str) -> SearchConfig:
    return SearchConfig.from_data(
        {
            "space": "digits",
            "budget": {"max_macs": "400k"},
            "trials": TRIALS,
            "sampler": sampler,
            "stopper": stopper,
            "seed": 0,  # every stopper stops some of its trials
            "max_refusals": 4,
            "set": {"train.epochs": EPOCHS},
        }
    )


@cache
def uninterrupted(sampler: str, stopper: str) -> tuple[list[Any], int]:
    """Return what a search finds that nothing interrupts, and how often it writes."""
    with TemporaryDirectory() as folder:
        config, death = config_of(sampler, stopper), Death()
        search(Path(folder), config, death)
        return found(Path(folder), config), death.writes


def dies_and_is_resumed(sampler: str, stopper: str, data: st.DataObject) -> None:
    expected, writes = uninterrupted(sampler, stopper)
    config = config_of(sampler, stopper)
    with TemporaryDirectory() as folder:
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(1, writes))
            death = Death(at, data.draw(st.sampled_from(["before", "amid", "after"])))
            try:
                search(Path(folder), config, death)
            except Killed:
                continue
        search(Path(folder), config, Death())
        assert found(Path(folder), config) == expected
        told = {record["state"] for *_, record, _, _ in expected if record}
        assert ("stopped" in told) == bool(STOPPERS[stopper].fractions)


@pytest.mark.parametrize(
    ("sampler", "stopper"),
    [("random", "none"), ("random", "pareto"), ("tpe", "asha"), ("nsga2", "median"),
     ("nsga3", "pareto"), ("sobol", "pareto")],
)  # fmt: skip
@given(data=st.data())
@settings(max_examples=settings().max_examples // 4)
def test_a_search_that_dies_at_any_write_and_is_resumed_finds_the_same(
    sampler: str, stopper: str, data: st.DataObject
) -> None:
    dies_and_is_resumed(sampler, stopper, data)


@pytest.mark.parametrize("sampler", ["pareto", pytest.param("gp", marks=pytest.mark.slow)])
@given(data=st.data())
@settings(max_examples=settings().max_examples // 10)
def test_so_does_one_whose_sampler_takes_its_time(sampler: str, data: st.DataObject) -> None:
    dies_and_is_resumed(sampler, "pareto", data)
