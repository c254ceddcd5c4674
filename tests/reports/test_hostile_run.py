"""Run folders from somebody who means harm: one sentence, or what is nonsense is left out."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

import reports
from castling.errors import CastlingError, RecordError, RunFolderError
from castling.untrusted.plain_yaml import read_yaml
from reports.curves import load_curves
from reports.model_metrics import METRICS_FILE, ModelMetrics
from reports.page import write_report
from reports.records import MANIFEST_FILE, STUDY_FILE
from search.cli import main
from search.study.storage import open_storage


def read_all(run: Path) -> None:
    """Read all that a run's readers read."""
    trials = reports.load(run, refused=True)
    trials.pareto.front()
    load_curves(run)
    write_report(run)


def one_sentence(error: CastlingError) -> None:
    assert error.is_bad_input
    assert len(str(error)) < 5_000


LINKS: dict[str, Callable[[Path], Path]] = {
    "report": lambda run: run / "report",
    "curves": lambda run: run / "curves",
    "checkpoints": lambda run: run / "checkpoints",
    "a curve": lambda run: run / "curves" / "00000.jsonl",
    "weights": lambda run: run / "checkpoints" / "00000.safetensors",
    "study": lambda run: run / STUDY_FILE,
    "lock": lambda run: run / ".lock",
    "latencies": lambda run: run / "latency.jsonl",
    "manifest": lambda run: run / MANIFEST_FILE,
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_out_of_the_run_is_not_followed(case: str, run: Path, tmp_path: Path) -> None:
    link, outside = LINKS[case](run), tmp_path / "outside"
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(outside)
    elif case in {"report", "curves", "checkpoints"}:
        outside.mkdir()
    else:
        outside.write_text("mine\n")
    before = outside.read_bytes() if outside.is_file() else b""
    link.symlink_to(outside)
    for read in (reports.load, load_curves, write_report):
        with pytest.raises(RunFolderError, match="has a link that leads out of it"):
            read(run)
    if outside.is_dir():
        assert not any(outside.iterdir())
    else:
        assert outside.read_bytes() == before


def test_links_within_a_run_and_to_a_run_are_fine(run: Path, tmp_path: Path) -> None:
    (run / "kept").mkdir()
    (run / "curves").symlink_to(run / "kept")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "00001.safetensors").symlink_to("../kept/x")
    (tmp_path / "alias").symlink_to(run)
    read_all(tmp_path / "alias")


JOURNAL_LINES = [
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"op_code": 4, "worker_id": "x", "trial_id": 10000000000000000000000, "state": 1}',
    b'{"op_code": 1e999}',
    b'{"op_code": 0, "worker_id": "x", "study_name": "y", "directions": [9, 9, 9]}',
    b'{"op_code": 4, "study_id": 0, "worker_id": "x", "datetime_start": "never"}',
    b"9" * 100_000,
    b'"' + b"x" * 1_000_000 + b'"',
    b"\x80\x04\x95 a pickle",
    b"null",
    b"\0" * 1_000,
]


@pytest.mark.parametrize("line", JOURNAL_LINES, ids=lambda line: repr(line[:30]))
def test_a_nonsense_line_in_the_journal_is_one_sentence(line: bytes, run: Path) -> None:
    journal = run / STUDY_FILE
    journal.write_bytes(journal.read_bytes() + line + b"\n")
    with pytest.raises(RecordError) as caught:
        reports.load(run)
    one_sentence(caught.value)


def test_files_of_more_than_memory_are_one_sentence(run: Path) -> None:
    curve = run / "curves" / "00000.jsonl"
    curve.parent.mkdir()
    for path, read in ((curve, load_curves), (run / STUDY_FILE, reports.load)):
        with path.open("ab") as file:
            file.truncate(2**40)  # a hole: nothing is written
        with pytest.raises(RecordError, match=r"its 1024\.0 GiB are more than the") as caught:
            read(run)
        one_sentence(caught.value)
    with pytest.raises(RecordError, match="are more than the"):
        open_storage(run, None)


CURVES = [b"[" * 100_000, b"9" * 10_000, b'{"epoch": "x"}', b"[]", b'"x"', b"\xff", b"null", b"{}"]


def test_nonsense_in_curves_is_left_out(run: Path) -> None:
    metrics = dict.fromkeys(
        ("loss", "top1", "top1_branch", "learning_rate", "images_per_s", "train_seconds"), 0.5
    )
    good: dict[str, Any] = {"epoch": 1, **metrics, "mask_density": []}
    odd = [
        {"epoch": 10**30}, {"mask_density": ["<script>"]}, {"mask_density": 3}, {"loss": [1]},
        {"epoch": float("inf")}, {"loss": {}},
    ]  # fmt: skip
    lines = [json.dumps(good | change).encode() for change in ({}, *odd)]
    (run / "curves").mkdir()
    (run / "curves" / "00000.jsonl").write_bytes(b"\n".join([*CURVES, *lines, *CURVES]) + b"\n")
    (run / "curves" / "..jsonl").write_bytes(lines[0])
    assert len(load_curves(run)) == 1


BAD_METRICS = [
    b"[" * 100_000, b"[]", b"3", b"{}", b"\xff", b'{"self": 1}', b"9" * 10_000,
    b" " * 10**6 + b"{}",
]  # fmt: skip


@pytest.mark.parametrize("content", BAD_METRICS, ids=lambda content: repr(content[:20]))
def test_hostile_metrics_are_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(content)
    with pytest.raises(RunFolderError, match="damaged"):
        ModelMetrics.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("test", "x"), ("macs", 1.5), ("params", True), ("data", None), ("epochs", [1])],
)
def test_metrics_of_another_type_are_one_sentence(
    field: str, value: object, tmp_path: Path
) -> None:
    texts = ("data", "trained_by", "castling_version", "exported_at")
    counts = dict.fromkeys(("macs", "params", "epochs"), 1)
    metrics = {
        "validation": {"top1": 0.5},
        "test": {"top1": 1},
        **counts,
        **dict.fromkeys(texts, "x"),
    }
    (tmp_path / METRICS_FILE).write_text(json.dumps(metrics))
    assert ModelMetrics.read(tmp_path).test["top1"] == 1
    (tmp_path / METRICS_FILE).write_text(json.dumps(metrics | {field: value}))
    with pytest.raises(RunFolderError, match=f"{field} must be of type"):
        ModelMetrics.read(tmp_path)


VALUES = st.sampled_from(
    [None, True, -1, 0, 10**30, -(10**30), 2**63 - 1, 1e308, "", "x" * 10_000, "\ud800", "\0",
     "<script>alert(1)</script>", "$\\frac{", "{0}", "../../x", [], {}, [[1]], {"a": {"b": []}},
     "2026-13-45", "9999999-01-01", "=cmd()", "\x1b[2J"]
) | st.text(max_size=10) | st.floats() | st.integers()  # fmt: skip
FIELDS = (
    "trial", "state", "macs", "params", "training_macs", "config_id", "latency_ms", "top1",
    "top1_branch", "loss", "epochs", "epochs_planned", "train_seconds", "started_at",
    "finished_at", "replay_of", "reason", "extra", "self",
)  # fmt: skip
POINTS = st.dictionaries(st.text(max_size=10) | st.sampled_from(FIELDS), VALUES, max_size=3)


@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3),
    point=st.none() | POINTS,
)
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_hostile_records_are_read_or_one_sentence(
    changes: dict[str, Any], point: dict[str, Any] | None, make_run: Callable[..., Path]
) -> None:
    run = make_run()
    try:
        journal = run / STUDY_FILE
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        for line in lines:
            if "record" in line.get("user_attr", {}):
                line["user_attr"]["record"] |= changes | (
                    {} if point is None else {"point": point}
                )
                break
        journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
        try:
            read_all(run)
        except CastlingError as error:
            one_sentence(error)
        else:
            page = (run / "report" / "index.html").read_text(encoding="utf-8")
            assert page.count("<script") == 2  # its data and its own code
    finally:
        shutil.rmtree(run)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_hostile_manifests_are_read_or_one_sentence(
    data: st.DataObject, make_run: Callable[..., Path]
) -> None:
    run = make_run()
    try:
        manifest: Any = read_yaml(run / MANIFEST_FILE)
        field = data.draw(st.sampled_from([*manifest, "storage_", "self"]))
        if field != "storage":
            manifest[field] = data.draw(VALUES | POINTS | st.lists(POINTS, max_size=2))
        text = yaml.safe_dump(manifest).encode(errors="surrogatepass")
        (run / MANIFEST_FILE).write_bytes(text)
        try:
            read_all(run)
        except CastlingError as error:
            one_sentence(error)
    finally:
        shutil.rmtree(run)


def test_a_record_with_columns_of_its_own_each_is_one_sentence(
    make_run: Callable[..., Path], record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run([record(number, point={f"x{number}": 1}) for number in range(10)])
    reports.load(run)
    monkeypatch.setattr("reports.frame.MOST_CELLS", 99)
    with pytest.raises(RecordError, match="10 dimensions in 10 trials"):
        reports.load(run)


def test_a_pipe_in_place_of_the_manifest_is_not_waited_for(run: Path) -> None:
    (run / MANIFEST_FILE).unlink()
    os.mkfifo(run / MANIFEST_FILE)
    with pytest.raises(RunFolderError):
        reports.load(run)


def test_a_terminal_is_not_told_what_a_journal_holds(
    make_run: Callable[..., Path],
    record: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run([record(0), record(1, "failed", reason="bad\x1b]0;owned\x07\nTraceback")])
    monkeypatch.setattr(sys, "argv", ["castling", "status", str(run)])
    with pytest.raises(SystemExit):
        main()
    out = capsys.readouterr().out
    assert r"1 failed: bad\x1b]0;owned\x07\nTraceback" in out
    assert "\x1b" not in out


def test_a_run_whose_sampler_pickles_is_not_resumed(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest: Any = read_yaml(run / MANIFEST_FILE)
    goal = {"metric": "top1", "direction": "max"}
    recipe = {"sampler": "optuna:CmaEsSampler", "objectives": [goal]}
    (run / MANIFEST_FILE).write_text(yaml.safe_dump(manifest | {"recipe": recipe}))
    monkeypatch.setattr(sys, "argv", ["castling", "search", "--out", str(run), "--resume"])
    before = (run / STUDY_FILE).read_bytes()
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "must keep no pickle in the study" in capsys.readouterr().err
    assert (run / STUDY_FILE).read_bytes() == before


@pytest.mark.parametrize("metric", ["__class__", "state", "point", "reason", "trial", "to_data"])
def test_objectives_that_are_no_measure_are_refused(metric: str, run: Path) -> None:
    manifest: Any = read_yaml(run / MANIFEST_FILE)
    manifest["objectives"][0]["metric"] = metric
    (run / MANIFEST_FILE).write_text(yaml.safe_dump(manifest))
    with pytest.raises(RunFolderError, match="must be among"):
        reports.load(run)
