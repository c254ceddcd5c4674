import json
from pathlib import Path

import pandas as pd
import pytest
from epochs import epoch_metrics

import reports
from castling.errors import RunFolderError
from castling.files import append_line
from castling.training.metrics import EpochMetrics
from reports.curves import read_curve
from reports.records import curve_path


def epoch(number: int, loss: float = 1.0) -> EpochMetrics:
    return epoch_metrics(number, mask_density=(0.1, 0.2), loss=loss)


def test_curves_have_a_row_per_trial_and_epoch(run: Path) -> None:
    for trial in (10, 2):
        for number in (1, 2):
            append_line(curve_path(run, trial), epoch(number).to_line())
    curves = reports.load_curves(run)
    assert list(zip(curves.trial, curves.epoch, strict=True)) == [(2, 1), (2, 2), (10, 1), (10, 2)]
    row = curves.iloc[3].to_dict()
    whole = epoch(2)
    assert row == {"trial": 10, "epoch": 2, **whole.metrics, "mask_density": whole.mask_density}


def test_lines_of_version_1_are_read(run: Path) -> None:
    line = {"epoch": 1, **epoch(1).metrics, "mask_density": [0.1, 0.2]}
    append_line(curve_path(run, 3), json.dumps(line))
    assert read_curve(run, 3) == [epoch(1)]
    assert list(reports.load_curves(run).columns) == [
        *("trial", "epoch", "loss", "top1", "top1_branch", "learning_rate"),
        *("images_per_s", "train_seconds", "mask_density"),
    ]


def test_a_trials_curve_is_its_epochs_up_to_the_first_that_is_missing(run: Path) -> None:
    for number, loss in ((1, 1.0), (2, 2.0), (2, 3.0), (4, 4.0)):
        append_line(curve_path(run, 3), epoch(number, loss).to_line())
    assert read_curve(run, 3) == [epoch(1, 1.0), epoch(2, 3.0)]
    assert read_curve(run, 4) == []


def test_an_epoch_trained_twice_counts_once(run: Path) -> None:
    for loss in (1.0, 2.0):
        append_line(curve_path(run, 0), epoch(1, loss).to_line())
    assert list(reports.load_curves(run).loss) == [2.0]


@pytest.mark.parametrize("torn", ['{"epoch": 2, "lo', "{", "null", "\x00\x00", '{"epoch": 2}'])
def test_torn_line_is_left_out_and_the_next_one_is_whole(torn: str, run: Path) -> None:
    path = curve_path(run, 0)
    append_line(path, epoch(1).to_line())
    with path.open("a") as file:
        file.write(torn)
    assert list(reports.load_curves(run).epoch) == [1]
    append_line(path, epoch(2).to_line())
    assert list(reports.load_curves(run).epoch) == [1, 2]
    assert json.loads(path.read_text().splitlines()[-1])["epoch"] == 2


def test_metrics_of_other_tasks_are_columns_too(run: Path) -> None:
    own = {"loss": 1.0, "learning_rate": 1e-3, "images_per_s": 1.0, "train_seconds": 1.0}
    other = epoch(1).replace(metrics=own | {"mean_error": 2.5})
    append_line(curve_path(run, 0), other.to_line())
    append_line(curve_path(run, 1), epoch(1).to_line())
    curves = reports.load_curves(run)
    assert curves.mean_error.isna().tolist() == [False, True]
    assert curves.top1.isna().tolist() == [True, False]


def test_files_that_are_no_curves_are_left_out(run: Path) -> None:
    append_line(curve_path(run, 0), epoch(1).to_line())
    append_line(curve_path(run, 0).with_name("notes.jsonl"), epoch(2).to_line())
    curve_path(run, 7).mkdir()
    assert list(reports.load_curves(run).trial) == [0]


@pytest.mark.parametrize("value", ['"high"', "null", "[1]", "1e400"])
@pytest.mark.parametrize("name", ["epoch", "loss"])
def test_damaged_value_does_not_hide_the_other_epochs(name: str, value: str, run: Path) -> None:
    append_line(curve_path(run, 0), epoch(1).to_line())
    good = json.loads(epoch(2).to_line())
    damaged = (
        {name: "VALUE"} if name == "epoch" else {"metrics": good["metrics"] | {name: "VALUE"}}
    )
    line = json.dumps(good | damaged).replace('"VALUE"', value)
    append_line(curve_path(run, 0), line)
    assert next(iter(reports.load_curves(run).epoch)) == 1


def test_run_without_curves_has_an_empty_typed_frame(run: Path) -> None:
    curves = reports.load_curves(run)
    assert curves.empty
    assert pd.api.types.is_integer_dtype(curves.epoch)
    assert pd.api.types.is_float_dtype(curves.loss)


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        reports.load_curves(tmp_path)


def test_repeats_have_curves_of_their_own(run: Path) -> None:
    append_line(curve_path(run, 4), epoch(1).to_line())
    for repeat, loss in ((0, 2.0), (1, 1.0)):
        append_line(curve_path(run, 4, repeat), epoch(1, loss).to_line())
    assert list(reports.load_curves(run).trial) == [4]
    curves = reports.load_curves(run, [4], repeats=True)
    assert list(curves.columns)[:3] == ["trial", "repeat", "epoch"]
    assert list(zip(curves.repeat, curves.loss, strict=True)) == [(0, 2.0), (1, 1.0)]
    assert read_curve(run, 4, 1) == [epoch(1)]
