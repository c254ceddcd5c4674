import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

from castling.errors import ConfigError, RecordError, RunFolderError
from reports.manifest import Manifest
from reports.records import MANIFEST_FILE, Record, TrialState


MakeRecord = Callable[..., Record]


def strictly(data: object) -> Any:
    """To JSON and back, as a parser does that knows no NaN."""
    return json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize("state", list(TrialState))
def test_a_record_of_every_state_survives_strict_json(
    record: MakeRecord, state: TrialState
) -> None:
    made = record(3, state)
    assert Record.from_data(strictly(made.to_data()), "here") == made


@given(top1=st.floats(0, 1), loss=st.floats(), seconds=st.floats(0), reason=st.text())
def test_metrics_survive_strict_json(
    record: MakeRecord, top1: float, loss: float, seconds: float, reason: str
) -> None:
    made = record(0, top1=top1, loss=loss, train_seconds=seconds, reason=reason)
    read = Record.from_data(strictly(made.to_data()), "here")
    assert read == made
    assert read.value("top1") == top1
    for name, value in (("loss", loss), ("train_seconds", seconds)):
        assert read.value(name) == value or (name not in read.metrics and not math.isfinite(value))
    assert read.reason == reason


def test_text_that_is_not_unicode_is_mended(record: MakeRecord) -> None:
    data = record(0, "failed", reason="no file caf\udce9.png").to_data()
    assert Record.from_data(strictly(data), "here").reason == "no file caf?.png"


NO_RECORDS = [
    ({"state": "dreaming"}, "state must be 'running', 'trained'"),
    ({"state": None}, "state must be"),
    ({"point": [1]}, "point must be"),
    ({"replay_of": "1"}, "replay_of must be"),
    ({"started_at": 5}, "started_at must be"),
    ({"colour": "blue"}, "colour is not a field"),
    ({"self": 1}, "self is not a field"),
    ({"trial": True}, "trial must be"),
    ({"trial": 1.0}, "trial must be"),
]
NO_METRICS = [
    ({"macs": "many"}, "macs must be a number"),
    ({"macs": True}, "macs must be a number"),
    ({"macs": 1.5}, "macs must be a whole number"),
    ({"top1": 1.5}, "top1 must be between 0 and 1"),
    ({"top1": None, "loss": None}, "metrics of a trained trial must have one that training"),
]


def version_1(record: Record) -> dict[str, Any]:
    """A record as version 0.1.0 wrote it: a field per metric."""
    data = record.to_data()
    metrics = data.pop("metrics")
    del data["version"]
    return {**data, **dict.fromkeys(("latency_ms", "top1", "loss")), **metrics}


def assert_no_record(data: object, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        Record.from_data(data, "study.journal, trial 0")
    assert caught.value.path == "study.journal, trial 0"
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(("change", "reason"), NO_RECORDS + NO_METRICS)
def test_what_is_no_record_of_version_1_is_named_with_its_place(
    record: MakeRecord, change: dict[str, Any], reason: str
) -> None:
    assert_no_record(version_1(record(0)) | change, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *NO_RECORDS,
        *(({"metrics": change}, reason) for change, reason in NO_METRICS),
        ({"metrics": {"trial": 1}}, "trial is not a metric"),
        ({"metrics": {"fidelity": 1.0}}, "fidelity is not a metric"),
        ({"metrics": {"model.depth": 1}}, "model.depth is not a metric"),
        ({"metrics": [1]}, "metrics must be a mapping"),
        ({"version": 3}, "version must be 2"),
    ],
)
def test_what_is_no_record_is_named_with_its_place(
    record: MakeRecord, change: dict[str, Any], reason: str
) -> None:
    data = record(0).to_data()
    if isinstance(change.get("metrics"), dict):
        change = {"metrics": data["metrics"] | change["metrics"]}
    assert_no_record(data | change, reason)


def test_a_record_of_version_1_is_read(record: MakeRecord) -> None:
    for state in TrialState:
        made = record(3, state)
        assert Record.from_data(strictly(version_1(made)), "here") == made


def test_a_missing_field_is_named(record: MakeRecord) -> None:
    data = version_1(record(0))
    del data["macs"]
    with pytest.raises(RecordError, match="macs is required"):
        Record.from_data(data, "here")


def test_counts_stay_whole_to_the_last_one(record: MakeRecord) -> None:
    data = strictly(record(0, macs=2**62 + 1).to_data())
    assert data["metrics"]["macs"] == 2**62 + 1
    assert Record.from_data(data, "here").metrics["macs"] == 2**62 + 1


@pytest.mark.parametrize("data", [None, 3, "text", [["macs", 1]]])
def test_what_is_no_mapping_is_no_record(data: Any) -> None:
    with pytest.raises(RecordError, match="here"):
        Record.from_data(data, "here")


@pytest.mark.parametrize("state", ["trained", "stopped", "replayed"])
def test_a_measured_state_needs_a_measurement(record: MakeRecord, state: str) -> None:
    with pytest.raises(ConfigError, match="one that training measures, such as top1"):
        record(0, state, top1=math.nan, loss=math.nan)


def test_a_manifest_survives_its_file(tmp_path: Path, manifest: Manifest) -> None:
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, "is not a castling run"),
        ("model: {}\n", "is not a castling run"),
        ("- 1\n", "is not a castling run"),
        ("castling_run: 1\n", "unreadable config.yaml"),
        ("castling_run: 2\n", "unreadable config.yaml"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, text: str | None, rule: str) -> None:
    if text is not None:
        (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(RunFolderError, match=rule):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("metrics", [[], ["top1", "macs", "top1"]])
def test_a_manifest_names_objectives_each_once(
    tmp_path: Path, manifest: Manifest, metrics: list[str]
) -> None:
    goals = [{"metric": metric, "direction": "max"} for metric in metrics]
    (tmp_path / MANIFEST_FILE).write_text(
        yaml.safe_dump(manifest.to_data() | {"objectives": goals})
    )
    with pytest.raises(RunFolderError, match="objectives: must name at least one metric"):
        Manifest.read(tmp_path)


def test_malformed_yaml_is_no_run(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text("castling_run: [1\n")
    with pytest.raises(RunFolderError, match=r"unreadable config\.yaml"):
        Manifest.read(tmp_path)


def test_a_missing_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="found none"):
        Manifest.read(tmp_path / "nowhere")
