"""The bridge between Tune's questions and the study's answers, without Ray."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from ray.tune.search import Searcher
from search_bridge import bridge

from castling.errors import StorageError
from reports.records import TrialState
from search.config import SearchConfig
from search.execution.searcher import StudySearcher
from search.execution.worker import OUTCOME, STORAGE_PROBLEM
from search.study.study import SearchStudy
from search.study.trial import Outcome


def opened(folder: Path, **changes: object) -> tuple[StudySearcher, SearchStudy]:
    config = SearchConfig.from_data({"sampler": "random", "trials": 2, **changes})
    found = bridge(folder, config)
    return found.searcher, found.study


def ended(**known: object) -> dict[str, object]:
    return {OUTCOME: json.dumps(asdict(Outcome(**{"state": TrialState.TRAINED, **known})))}


def test_a_full_disk_ends_the_search_and_leaves_the_trial_to_be_resumed(tmp_path: Path) -> None:
    searcher, study = opened(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {STORAGE_PROBLEM: "No space left on device"})
    assert isinstance(searcher.failure, StorageError)
    assert "No space left on device" in str(searcher.failure)
    assert study.records == []
    assert searcher.suggest("b") == Searcher.FINISHED
    again, _ = opened(tmp_path)
    assert again.suggest("a")["trial"] == 0


def test_a_dead_workers_trial_is_suggested_again_even_when_all_others_are_begun(
    tmp_path: Path,
) -> None:
    searcher, study = opened(tmp_path)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert searcher.suggest("c") is None  # not FINISHED: one of the two may come back
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("c") == first
    searcher.on_trial_complete("c", error=True)
    [record] = study.records
    assert (record.trial, record.state) == (first["trial"], "failed")
    assert record.reason == "the worker died (out of memory, or killed)"
    searcher.on_trial_complete("b", ended(metrics={"top1": 0.5}, epochs=40))
    assert {record.trial for record in study.records} == {first["trial"], second["trial"]}
    assert searcher.suggest("d") == Searcher.FINISHED


def test_a_worker_that_dies_after_the_time_limit_has_failed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher, study = opened(tmp_path, trial_minutes=0.5)
    assert searcher.suggest("a")["seconds"] == 30.0
    now = searcher._begun["a"]
    monkeypatch.setattr("search.execution.searcher.time.monotonic", lambda: now + 31.0)
    searcher.on_trial_complete("a", error=True)
    [record] = study.records
    assert record.reason == "took longer than trial_minutes, 0.5"


def test_divided_batches_are_suggested_after_too_little_memory(tmp_path: Path) -> None:
    searcher, study = opened(tmp_path, double_accumulation=True)
    first = searcher.suggest("a")
    starved = ended(state=TrialState.FAILED, out_of_memory=True)
    searcher.on_trial_complete("a", starved)
    second = searcher.suggest("b")
    assert second["trial"] == first["trial"]
    parts = [json.loads(each["run"])["train"]["accumulation"] for each in (first, second)]
    assert parts == [1, 2]
    searcher.on_trial_complete("b", starved)
    assert [record.state for record in study.records] == ["failed"]
