import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import reports
from castling.errors import ConfigError, RecordError, RunFolderError
from castling.metrics import OF_TASKS, recorded_metrics
from reports.frame import dimension_column, natural_order, tabulate
from reports.manifest import Manifest
from reports.records import RECORD_ATTRIBUTE, STUDY_FILE, STUDY_NAME, Record, TrialState


MakeRun = Callable[..., Path]
MakeRecord = Callable[..., Record]
FIXED = [column.name for column in reports.COLUMNS]


def test_the_columns_are_the_fields_of_a_record_and_the_metrics() -> None:
    fields = {*Record.model_fields} - {"version", "point", "metrics"}
    metrics = {metric.name for metric in recorded_metrics()} - OF_TASKS
    assert {*FIXED} == fields | metrics | {"fidelity"}
    for column in reports.COLUMNS:
        assert column.description


VERSION_1 = {
    "trial": "int64", "state": "category", "macs": "int64", "params": "int64",
    "training_macs": "int64", "config_id": "string", "latency_ms": "float64", "top1": "float64",
    "top1_branch": "float64", "loss": "float64", "mask_density": "float64", "epochs": "int64",
    "epochs_planned": "int64", "train_seconds": "float64", "images_per_s": "float64",
    "started_at": "datetime64[us, UTC]", "finished_at": "datetime64[us, UTC]",
    "replay_of": "Int64", "reason": "string", "fidelity": "float64",
}  # fmt: skip
"""What notebooks rely on since version 0.1.0: names, their order, dtypes."""


def test_the_columns_are_those_of_version_1(run: Path) -> None:
    trials = reports.load(run)
    assert {name: str(trials[name].dtype) for name in FIXED} == VERSION_1
    assert [*VERSION_1] == FIXED


def test_one_row_per_trial_but_refused_proposals(run: Path) -> None:
    trials = reports.load(run)
    assert list(trials["trial"]) == [0, 1, 2, 3, 4, 5, 7]
    assert list(trials.index) == list(range(7))
    assert isinstance(trials.index, pd.RangeIndex)


def test_refused_proposals_on_request(run: Path) -> None:
    trials = reports.load(run, refused=True)
    assert list(trials["trial"]) == list(range(8))
    assert trials["state"][6] == "refused"
    assert list(trials.columns) == list(reports.load(run).columns)


def test_values_arrive_as_recorded(run: Path) -> None:
    trials = reports.load(run).set_index("trial")
    assert trials["top1"][1] == 0.80
    assert trials["replay_of"][5] == 1
    assert trials["replay_of"].isna().sum() == 6
    assert trials["reason"][4] == "loss must be finite, got nan at epoch 3, step 12"
    assert trials["started_at"][1] == pd.Timestamp("2026-11-03 12:01", tz="UTC")
    assert trials["finished_at"].isna()[7]
    assert trials["fidelity"][3] == 0.4
    assert pd.isna(trials["top1"][7])


@pytest.mark.parametrize("empty", [True, False])
def test_the_fixed_columns_have_the_same_dtypes_with_and_without_rows(
    make_run: MakeRun, record: MakeRecord, *, empty: bool
) -> None:
    trials = reports.load(make_run([] if empty else [record(0)]))
    assert list(trials.columns)[: len(FIXED)] == FIXED
    assert [trials[column.name].dtype for column in reports.COLUMNS] == [
        pd.api.types.pandas_dtype(column.dtype) for column in reports.COLUMNS
    ]
    assert list(trials["state"].cat.categories) == [str(state) for state in TrialState]


def test_dimensions_follow_in_natural_order(run: Path) -> None:
    trials = reports.load(run)
    assert list(trials.columns)[len(FIXED) :] == [
        "model.blocks.2.num_heads",
        "model.blocks.10.operator",
        "model.depth",
        "train.learning_rate",
    ]
    assert trials["model.blocks.2.num_heads"].dtype == "Int64"
    assert trials["train.learning_rate"].dtype == "Float64"
    assert trials["model.blocks.10.operator"].dtype == "string"
    assert trials["model.depth"].isna().sum() == 6


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, None, 3], "Int64"),
        ([1, 2.5], "Float64"),
        ([2.0, 4.0], "Float64"),
        ([True, None], "boolean"),
        (["a", None], "string"),
        ([1, "a"], "object"),
        ([True, 1], "object"),
        ([[1, 2], [3, 4]], "object"),
        ([None], "object"),
        ([], "object"),
    ],
)
def test_a_dimension_has_the_dtype_of_its_values(values: list[Any], dtype: str) -> None:
    column = dimension_column(values)
    assert column.dtype == dtype
    assert [None if value is pd.NA else value for value in column.astype(object)] == values


@given(st.lists(st.tuples(st.sampled_from(["a.", "b.", "a"]), st.integers(0, 200))))
def test_numbers_in_names_sort_as_numbers(pairs: list[tuple[str, int]]) -> None:
    names = [f"{text}{number}.x" for text, number in pairs]
    expected = [f"{text}{number}.x" for text, number in sorted(pairs)]
    assert sorted(names, key=natural_order) == expected


def test_a_trial_without_a_record_is_left_out(run: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(run / STUDY_FILE)))
    optuna.load_study(study_name=STUDY_NAME, storage=storage).ask()
    assert len(reports.load(run, refused=True)) == 8


def test_a_damaged_record_is_named_with_its_trial(run: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(run / STUDY_FILE)))
    trial = optuna.load_study(study_name=STUDY_NAME, storage=storage).ask()
    trial.set_user_attr(RECORD_ATTRIBUTE, {"trial": 8})
    with pytest.raises(RecordError, match=r"study\.journal, trial 8: "):
        reports.load(run)


@pytest.mark.parametrize(
    "change", [{"macs": 2**80}, {"started_at": "yesterday"}, {"finished_at": "2026-13-01"}]
)
def test_a_value_that_fits_no_column_is_a_record_error(
    make_run: MakeRun, record: MakeRecord, change: dict[str, Any]
) -> None:
    run = make_run([record(0, **change)])
    with pytest.raises(RecordError, match=r"study\.journal"):
        reports.load(run)


def test_attrs_are_the_runs_question_as_plain_data(run: Path, manifest: Manifest) -> None:
    trials = reports.load(str(run))
    assert json.loads(json.dumps(trials.attrs)) == trials.attrs
    assert trials.attrs == {
        "run": str(run),
        "budget": {
            "max_macs": 1_000_000,
            "max_params": None,
            "max_latency_ms": None,
            "max": {},
            "min": {},
        },
        "objectives": [
            {"metric": "top1", "direction": "max"},
            {"metric": "macs", "direction": "min"},
        ],
        "reference": {"top1": 0.1, "macs": 1_000_000.0},
    }


def test_a_table_survives_csv_and_parquet(run: Path, tmp_path: Path) -> None:
    trials = reports.load(run)
    trials.to_csv(tmp_path / "trials.csv", index=False)
    assert list(pd.read_csv(tmp_path / "trials.csv")["top1"].dropna()) == list(
        trials["top1"].dropna()
    )
    trials.to_parquet(tmp_path / "trials.parquet")
    read = pd.read_parquet(tmp_path / "trials.parquet")
    pd.testing.assert_frame_equal(read, trials, check_dtype=False, check_categorical=False)
    assert read.attrs == trials.attrs


def test_a_config_is_plain_data(run: Path) -> None:
    assert reports.load_config(run, 3) == {"model": {"embed_width": 19}}


@pytest.mark.parametrize("trial", [-1, 8, 10**9])
def test_a_trial_that_does_not_exist_is_named(run: Path, trial: int) -> None:
    with pytest.raises(ConfigError, match=rf"trial: must be .*0 to 7.*, got {trial}"):
        reports.load_config(run, trial)


def test_an_empty_study_has_no_trial(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="none yet"):
        reports.load_config(make_run([]), 0)


def test_a_trial_without_config_was_not_begun(run: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(run / STUDY_FILE)))
    optuna.load_study(study_name=STUDY_NAME, storage=storage).ask()
    with pytest.raises(ConfigError, match="must be one that was begun"):
        reports.load_config(run, 8)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        reports.load(tmp_path)


def test_thousands_of_records_are_tabulated_at_once(record: MakeRecord) -> None:
    trials = tabulate([record(number % 40) for number in range(5_000)])
    assert len(trials) == 5_000


WATCHED = """
import os, sys
writes = []
def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        writes.append(arguments[0])
    elif event in {"os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove"}:
        writes.append(arguments[0])
import reports
sys.addaudithook(watch)
trials = reports.load(sys.argv[1])
trials.pareto.front(), trials.pareto.hypervolume()
"""
HEAVY = "assert not {'ray', 'torch', 'matplotlib'} & set(sys.modules), 'heavy'"
UNWRITTEN = "assert not writes, writes"


def python(code: str, run: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False
    )


def test_reading_results_imports_nothing_heavy_and_writes_nothing(run: Path) -> None:
    done = python(f"{WATCHED}\n{HEAVY}\n{UNWRITTEN}", run)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("heavy", ["torch", "matplotlib"])
def test_the_check_of_heavy_imports_can_fail(run: Path, heavy: str) -> None:
    done = python(f"{WATCHED}\nsys.modules[{heavy!r}] = sys\n{HEAVY}", run)
    assert "AssertionError: heavy" in done.stderr


def test_the_check_of_writes_can_fail(run: Path) -> None:
    done = python(f"{WATCHED}\nopen(sys.argv[1] + '/new', 'w').close()\n{UNWRITTEN}", run)
    assert "AssertionError" in done.stderr
