import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
import typer
import yaml

import reports
from castling.config import RunConfig
from castling.files import write_yaml
from castling.model.check import read_run_config
from castling.sizes import parse_size
from search.cli import app


Command = Callable[..., tuple[int, str, str]]


OPTIONS = {
    "search": {
        "--out", "--max-macs", "--max-params", "--trials", "--workers", "--sampler", "--seed",
        "--images", "--set", "--resume", "--address", "--storage", "--max-latency-ms",
        "--objective", "--points", "--strategy", "--stopper", "--max", "--min", "--training",
        "--repeats",
    },
    "status": {"--watch"},
    "compare": set(),
    "logs": {"--trial"},
    "config": {"--trial"},
    "front": {"--format", "--max", "--min"},
    "report": {"--out", "--max", "--min", "--watch"},
    "export": {
        *("--out", "--max-macs", "--max-params", "--max", "--min", "--trial", "--onnx"),
        *("--preprocess-in-graph", "--device"),
    },
    "train": {
        *("--out", "--from", "--images", "--training", "--set", "--resume"),
        *("--num-workers", "--address"),
    },
    "evaluate": {"--images", "--device"},
    "predict": {"--from", "--top", "--format", "--device"},
    "measure": set(),
    "metrics": set(),
    "operators": {"--tokens", "--width", "--heads"},
    "layers": {"--image-size", "--operator"},
    "spaces": set(),
    "recipes": set(),
    "strategies": set(),
    "samplers": set(),
    "stoppers": set(),
    "data": set(),
}  # fmt: skip


def test_commands_and_options_are_a_contract() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = {
        name: {
            option
            for parameter in command.params
            for option in parameter.opts
            if option.startswith("--") and option != "--help"
        }
        for name, command in commands.items()
    }
    assert found == OPTIONS


BAD_RECIPES = {
    "torn.yaml": "space: [digits\n",
    "list.yaml": "- 1\n",
    "empty.yaml": "",
    "space.yaml": "space: nope\n",
    "field.yaml": "trails: 3\n",
    "type.yaml": "trials: many\n",
    "operator.yaml": 'dimensions: [{target: "model.blocks.*.operator", choices: [nope]}]\n',
    "target.yaml": "dimensions: [{target: model.beauty, choices: [1]}]\n",
    "deep.yaml": "a: " + "[" * 3000 + "]" * 3000 + "\n",
    "tag.yaml": "!!python/object/apply:os.system ['true']\n",
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_bad_recipe_is_one_sentence(name: str, castling: Command, tmp_path: Path) -> None:
    (tmp_path / name).write_text(BAD_RECIPES[name])
    code, _, message = castling("search", tmp_path / name, "--out", tmp_path / "run")
    assert_refused(code, message)
    assert not (tmp_path / "run").exists()


BAD_SEARCHES: dict[str, tuple[object, ...]] = {
    "unknown recipe": ("nope",),
    "budget too small": ("digits", "--max-macs", "10k"),
    "parameters too few": ("digits", "--max-params", "100"),
    "budget no size": ("digits", "--max-macs", "lots"),
    "negative budget": ("digits", "--max-macs", "-5"),
    "no trials": ("digits", "--trials", "0"),
    "unknown sampler": ("digits", "--sampler", "nope"),
    "unknown stopper": ("digits", "--stopper", "nope"),
    "unknown field": ("digits", "--set", "train.epoch=3"),
    "unknown operator": ("digits", "--set", "model.blocks.*.operator=nope"),
    "operator that does not fit": (
        "digits", "--set", "model.blocks.*.operator=swin", "--set", "model.pooling=cls",
    ),
    "windows that do not divide": (
        "digits", "--set", "model.blocks.*.operator=swin",
        "--set", "model.blocks.*.options={window_size: 3}",
    ),
    "option of another operator": (
        "digits", "--set", "model.blocks.*.operator=softmax",
        "--set", "model.blocks.*.options={window_size: 2}",
    ),
    "no path": ("digits", "--set", "nonsense"),
    "no YAML": ("digits", "--set", "train.epochs=[1"),
    "missing data": ("fashion-mnist", "--set", "data.path=/nowhere"),
    "unknown training": ("digits", "--training", "nope"),
    "images that a space names are missing": ("deit_tiny",),
    "missing folder": ("digits", "--set", "data.name=folder:/nowhere"),
    "unknown data": ("digits", "--set", "data.name=mnist"),
    "foreign data": ("digits", "--set", "model.image_size=[16, 16]"),
    "bad storage": ("digits", "--storage", "foo://bar"),
    "no weights to begin with": ("digits", "--set", "train.initial=/nowhere"),
    "weights of a backbone": ("digits", "--set", "train.initial=pretrained"),
    "unknown teacher": ("digits", "--set", "train.distill={teacher: nope}"),
    "teacher of other classes": ("digits", "--set", "train.distill={teacher: resnet18}"),
    "unknown task": ("digits", "--set", "task=dance"),
    "distillation without a teacher": ("digits", "--set", "train.distill={}"),
    "nothing to resume": ("digits", "--resume"),
    "budgets that conflict": ("digits", "--max-macs", "39k", "--max-params", "2k"),
    "latency below all": ("digits", "--max-latency-ms", "0.000001"),
    "negative latency": ("digits", "--max-latency-ms", "-1"),
    "bound without a value": ("digits", "--max", "train_seconds"),
    "bound on nobody's metric": ("digits", "--max", "beauty=3"),
    "bound on the better side": ("digits", "--min", "macs=3"),
    "bound that is no number": ("digits", "--min", "top1=much"),
    "bound twice": ("digits", "--max-macs", "1M", "--max", "macs=2M"),
    "bound below all": ("digits", "--max", "training_macs=1k"),
    "objective nobody reports": ("digits", "--objective", "beauty:max"),
    "objective without direction": ("digits", "--objective", "top1"),
    "objective in no direction": ("digits", "--objective", "top1:up"),
    "objective twice": ("digits", "--objective", "top1:max", "--objective", "top1:min"),
    "no sampler of Optuna's": ("digits", "--sampler", "optuna:NopeSampler"),
    "abstract sampler": ("digits", "--sampler", "optuna:BaseSampler"),
    "sampler that needs a grid": ("digits", "--sampler", "optuna:GridSampler"),
    "sampler of one objective": ("digits", "--sampler", "optuna:CmaEsSampler"),
    "no file of points": ("digits", "--points", "/nowhere.yaml"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SEARCHES)
def test_bad_search_is_one_sentence(case: str, castling: Command, tmp_path: Path) -> None:
    code, _, message = castling("search", *BAD_SEARCHES[case], "--out", tmp_path / "run")
    assert_refused(code, message)
    assert not (tmp_path / "run").exists()


BAD_POINTS = {
    "no list": "model.depth: 3",
    "no mappings": "[3]",
    "another space's": "- {model.beauty: 3}",
    "out of domain": "- {model.depth: 2}\n- {model.depth: 99}",
    "of another type": "- {model.depth: two}",
    "over budget": "- {model.embed_width: 64, model.depth: 4}",
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_points_outside_the_space_are_refused(
    case: str, castling: Command, tmp_path: Path
) -> None:
    path = tmp_path / "points.yaml"
    path.write_text(BAD_POINTS[case])
    given = ("--points", path, "--max-macs", "200k", "--out", tmp_path / "run")
    code, _, message = castling("search", "digits", *given)
    assert_refused(code, message)
    assert not (tmp_path / "run").exists()


def test_samplers_that_can_are_named(castling: Command, tmp_path: Path) -> None:
    given = ("--sampler", "optuna:GridSampler", "--out", tmp_path / "run")
    message = castling("search", "digits", *given)[2]
    assert "those that can are" in message
    assert "pareto" in message


def test_optuna_adds_nothing_to_the_sentence(castling: Command, tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    given = ("--sampler", "optuna:GridSampler", "--out", tmp_path / "run")
    assert_refused(*castling("search", "digits", *given)[::2])
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def test_cheapest_cost_is_said_when_the_budget_is_below_it(
    castling: Command, tmp_path: Path
) -> None:
    message = castling("search", "digits", "--max-macs", "10k", "--out", tmp_path / "run")[2]
    assert "38,816" in message


def assert_refused(code: int, message: str) -> None:
    assert code == 2
    assert message.startswith("castling: ")
    assert len(message.strip().splitlines()) == 1
    assert "Traceback" not in message


@pytest.mark.parametrize("name", ["a[/b]c", ":car:", "ü n [red]"])
def test_odd_paths_are_printed_as_they_are(
    name: str, castling: Command, small_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    code, out, _ = castling("report", small_run, "--out", folder)
    assert code == 0
    assert out.splitlines()[0] == str(folder / "index.html")
    assert str(folder / "none") in castling("front", folder / "none")[2]


@pytest.mark.parametrize("line", [b"\xff\n", b"[]\n", b'{"op_code": 99}\n'])
def test_damaged_study_is_not_resumed(
    line: bytes, castling: Command, small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    journal = run / "study.journal"
    damaged = journal.read_bytes() + line
    journal.write_bytes(damaged)
    code, _, message = castling("search", "--out", run, "--resume")
    assert_refused(code, message)
    assert str(journal) in message
    assert journal.read_bytes() == damaged


def test_run_whose_study_is_lost_is_not_begun_anew(
    castling: Command, small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    (run / "study.journal").unlink()
    code, _, message = castling("search", "--out", run, "--resume")
    assert_refused(code, message)
    assert "restore it" in message


def test_out_below_a_file_is_one_sentence(castling: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        assert_refused(*castling("search", "smoke", "--out", out)[::2])


def test_search_without_a_trained_trial_has_failed(
    castling: Command, ray_session: None, tmp_path: Path
) -> None:
    options = ("--trials", 1, "--workers", 1, "--set", "train.epochs=1")
    code, _, message = castling(
        "search", "smoke", *options, "--set", "train.learning_rate=1e30", "--out", tmp_path / "run"
    )
    assert code == 1
    found, problem = message.strip().splitlines()
    assert "castling status" in problem
    assert found.startswith("digits: 1,797 images of 10 classes")
    assert "1 failed: DivergedError" in castling("status", tmp_path / "run")[1]
    kept = castling("logs", tmp_path / "run", "--trial", 0)[1]
    assert re.search(r'File ".*trainer.py", line \d+', kept)
    assert "DivergedError" in kept.splitlines()[-1]
    config = yaml.safe_load(castling("config", tmp_path / "run", "--trial", 0)[1])
    assert RunConfig.from_data(config).train.learning_rate == 1e30


@pytest.mark.parametrize("command", ["status", "front", "report"])
def test_folder_that_is_no_run_is_refused(command: str, castling: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "notes.txt"):
        assert_refused(*castling(command, folder)[::2])
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_run_of_another_space_is_not_resumed(
    castling: Command, small_run: Path, tmp_path: Path
) -> None:
    code, _, message = castling("search", "digits", "--out", small_run, "--resume")
    assert_refused(code, message)
    assert "train.epochs 2, this search has 80" in message


def test_run_folder_is_not_overwritten(castling: Command, small_run: Path) -> None:
    before = sorted(small_run.rglob("*"))
    code, _, message = castling("search", "smoke", "--out", small_run)
    assert_refused(code, message)
    assert "--resume" in message
    assert sorted(small_run.rglob("*")) == before


def test_front_in_every_format(castling: Command, small_run: Path) -> None:
    assert "hypervolume" in castling("front", small_run)[1]
    rows = json.loads(castling("front", small_run, "--format", "json")[1])
    lines = castling("front", small_run, "--format", "csv")[1].splitlines()
    assert len(lines) == len(rows) + 1
    assert [row["macs"] for row in rows] == sorted(row["macs"] for row in rows)


def test_status_counts_trials(castling: Command, small_run: Path) -> None:
    for options in ((), ("--watch",)):
        out = castling("status", small_run, *options)[1]
        assert f"{small_run}: ended, 3 of 3 trials" in out
        assert "3 trained" in out


def test_logs_and_configs_are_of_trials_that_have_them(castling: Command, small_run: Path) -> None:
    trials = reports.load(small_run, refused=True)
    trained = trials.loc[trials.state == "trained", "trial"].iloc[0]
    code, _, message = castling("logs", small_run, "--trial", trained)
    assert_refused(code, message)
    assert "must be a trial that failed (none did)" in message
    config = yaml.safe_load(castling("config", small_run, "--trial", trained)[1])
    assert config == reports.load_config(small_run, trained)
    assert_refused(*castling("config", small_run, "--trial", 999)[::2])
    assert_refused(*castling("logs", small_run, "--trial", 999)[::2])
    assert not [*small_run.glob("errors/*")]


def test_report_names_its_files(castling: Command, small_run: Path, tmp_path: Path) -> None:
    code, out, _ = castling("report", small_run, "--out", tmp_path / "report")
    assert code == 0
    for line in out.split():
        assert Path(line).stat().st_size > 0


def test_export_evaluate_measure_and_train_go_round(
    castling: Command, small_run: Path, tmp_path: Path, umask: Callable[[int], int]
) -> None:
    umask(0o077)
    best = tmp_path / "best"
    code, out, _ = castling("export", small_run, "--out", best, "--onnx")
    assert code == 0
    assert {path.name for path in best.iterdir()} == {
        "config.yaml", "model.safetensors", "metrics.json", "model.onnx",
    }  # fmt: skip
    assert castling("evaluate", best)[1].count("top1") == 2
    macs = json.loads((best / "metrics.json").read_text())["macs"]
    assert castling("measure", best)[1].count(f"{macs:,}") == 2
    code, out, _ = castling("train", best / "config.yaml", "--out", tmp_path / "again")
    assert code == 0
    assert out.count("epoch ") == 2
    assert re.search(r"^epoch 1/2: .* 0:00:\d\d left$", out, re.MULTILINE)
    assert re.search(r"^epoch 2/2: .* images/s$", out, re.MULTILINE)
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    recorded = json.loads((best / "metrics.json").read_text())
    assert again["validation"] == recorded["validation"]
    assert again["test"] == recorded["test"]
    shutil.copytree(small_run, tmp_path / "run")
    castling("report", tmp_path / "run", "--out", tmp_path / "report")
    for folder in (best, tmp_path / "again", tmp_path / "report"):
        assert not [path for path in [folder, *folder.iterdir()] if path.stat().st_mode & 0o077]


def test_evaluate_fails_when_the_weights_are_not_the_recorded_ones(
    castling: Command, small_run: Path, tmp_path: Path
) -> None:
    best = tmp_path / "best"
    castling("export", small_run, "--out", best)
    metrics = json.loads((best / "metrics.json").read_text())
    (best / "metrics.json").write_text(json.dumps({**metrics, "test": {"top1": 0.123}}))
    code, out, _ = castling("evaluate", best)
    assert code == 1
    assert "12.3000% was recorded" in out


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "foreign"])
def test_damaged_weights_are_one_sentence(
    damage: str, castling: Command, small_run: Path, tmp_path: Path
) -> None:
    best = tmp_path / "best"
    castling("export", small_run, "--out", best)
    weights = best / "model.safetensors"
    content = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes({"truncated": content[:3000], "empty": b""}.get(damage, b"P" * 9000))
    assert_refused(*castling("evaluate", best)[::2])


def test_export_refuses_what_it_cannot_give(
    castling: Command, small_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    for arguments in (
        ("--out", tmp_path / "e", "--max-macs", "1k"),
        ("--out", tmp_path / "e", "--trial", "999"),
        ("--out", tmp_path / "taken"),
    ):
        assert_refused(*castling("export", small_run, *arguments)[::2])
    assert not (tmp_path / "e").exists()


def test_full_disk_while_training_is_one_sentence(castling: Command, tmp_path: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    write_yaml(config, RunConfig.from_data({"train": {"epochs": 1}}).to_data())
    write_yaml(out / "config.yaml", RunConfig.from_data({"train": {"epochs": 1}}).to_data())
    (out / "curve.jsonl").symlink_to("/dev/full")
    code, _, message = castling("train", config, "--out", out, "--resume")
    assert code == 1
    _, problem = message.strip().splitlines()
    assert "No space left on device" in problem


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "metrics.json"])
def test_export_that_fails_half_way_can_be_tried_again(
    name: str,
    castling: Command,
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", full)
        code, _, message = castling("export", small_run, "--out", tmp_path / "best")
    assert (code, len(message.strip().splitlines())) == (1, 1)
    assert "No space left on device" in message
    assert castling("export", small_run, "--out", tmp_path / "best")[0] == 0


def test_training_begins_with_given_weights_of_the_same_architecture(
    castling: Command, tmp_path: Path
) -> None:
    config, other = tmp_path / "config.yaml", tmp_path / "other.yaml"
    small = {"data": {"num_train": 100, "num_validation": 50}}
    write_yaml(config, RunConfig.from_data({"train": {"epochs": 2}, **small}).to_data())
    write_yaml(other, RunConfig.from_data({"model": {"embed_width": 24}, **small}).to_data())
    assert castling("train", config, "--out", tmp_path / "a")[0] == 0
    code, _, _ = castling("train", config, "--from", tmp_path / "a", "--out", tmp_path / "b")
    assert code == 0
    fresh, begun = (
        json.loads((tmp_path / name / "curve.jsonl").read_text().splitlines()[0])["metrics"][
            "loss"
        ]
        for name in "ab"
    )
    assert begun < fresh
    for start in (tmp_path / "a", tmp_path / "none"):
        refused = castling("train", other, "--from", start, "--out", tmp_path / "c")
        assert_refused(*refused[::2])
        assert not (tmp_path / "c").exists()


def test_a_trained_model_is_converted_by_settings(castling: Command, tmp_path: Path) -> None:
    config, soft, out = tmp_path / "config.yaml", tmp_path / "softmax", tmp_path / "converted"
    data = {"num_train": 100, "num_validation": 50}
    model = {"blocks": [{"operator": "softmax"}]}
    run = RunConfig.from_data({"model": model, "train": {"epochs": 1}, "data": data})
    write_yaml(config, run.to_data())
    assert castling("train", config, "--out", soft)[0] == 0
    given = ["--set", "model.blocks.*.operator=linear_angular", "--set", "train.distill={}"]
    assert castling("train", soft, "--from", soft, *given, "--out", out)[0] == 0
    converted = read_run_config(out)
    assert converted.model.blocks[0].operator == "linear_angular"
    assert converted.train.initial == str(soft)
    assert castling("evaluate", out)[0] == 0
    unknown = castling("train", soft, "--set", "train.teacher=x", "--out", tmp_path / "c")
    assert_refused(*unknown[::2])
    alone = castling("train", soft, "--set", "train.distill={}", "--out", tmp_path / "c")
    assert_refused(*alone[::2])
    assert not (tmp_path / "c").exists()


def test_training_folder_belongs_to_one_training(castling: Command, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    write_yaml(config, RunConfig.from_data({"train": {"epochs": 2}}).to_data())
    assert castling("train", config, "--out", tmp_path / "a")[0] == 0
    assert_refused(*castling("train", config, "--out", tmp_path / "a")[::2])
    assert_refused(*castling("train", config, "--out", tmp_path / "a", "--resume")[::2])
    assert_refused(*castling("train", config, "--out", tmp_path / "b", "--resume")[::2])


def test_a_report_of_two_runs_compares_them(
    castling: Command, small_run: Path, tmp_path: Path
) -> None:
    code, out, _ = castling("report", small_run, small_run, "--out", tmp_path / "both")
    assert code == 0
    assert out.splitlines()[0] == str(tmp_path / "both" / "index.html")
    code, _, error = castling("report", small_run, small_run)
    assert (code, error.count("\n")) == (2, 1)
    assert "--out" in error
    assert "left out" in castling("report", small_run, small_run, "--out", "x", "--watch")[2]


def test_runs_are_compared(castling: Command, small_run: Path, tmp_path: Path) -> None:
    code, out, _ = castling("compare", small_run, small_run)
    assert code == 0
    volume = f"{reports.load(small_run).pareto.hypervolume(relative=True):.4f}"
    assert out.count(volume) == 2
    assert "equal" in out
    other = tmp_path / "other"
    shutil.copytree(small_run, other)
    manifest = yaml.safe_load((other / "config.yaml").read_text())
    manifest["objectives"][1]["metric"] = "params"
    write_yaml(other / "config.yaml", manifest)
    code, _, message = castling("compare", small_run, other)
    assert_refused(code, message)
    assert "compare runs with the same objectives" in message
    assert_refused(*castling("compare", small_run)[::2])


def test_the_version_is_printed(castling: Command) -> None:
    assert castling("--version") == (0, f"castling {version('castling-nas')}\n", "")


def test_bounds_leave_models_out_of_front_report_and_export(
    castling: Command, small_run: Path, tmp_path: Path
) -> None:
    rows = json.loads(castling("front", small_run, "--format", "json")[1])
    least = min(row["macs"] for row in rows)
    bound = ("--max", f"macs={least}")
    [only] = json.loads(castling("front", small_run, "--format", "json", *bound)[1])
    assert only["macs"] == least
    out = castling("report", small_run, "--out", tmp_path / "report", *bound)[1].split()
    assert f"{least:,} MACs" in Path(out[0]).read_text()
    assert castling("export", small_run, "--out", tmp_path / "best", *bound)[0] == 0
    metrics = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert metrics["macs"] == least
    refused = castling("export", small_run, "--out", tmp_path / "no", "--min", "top1=100%")
    assert_refused(*refused[::2])
    assert castling("front", small_run, "--min", "top1=100%")[0] == 0


@pytest.mark.parametrize(
    "listing", ["metrics", "operators", "spaces", "recipes", "strategies", "samplers", "stoppers"]
)
def test_listings_name_every_entry(listing: str, castling: Command) -> None:
    from castling.metrics import recorded_metrics
    from castling.operators import OPERATORS
    from search.recipes import RECIPES
    from search.samplers import SAMPLERS
    from search.stoppers import STOPPERS
    from search.strategies import STRATEGIES
    from space.presets import SPACES

    entries = {
        "metrics": {metric.name for metric in recorded_metrics()},
        "operators": OPERATORS,
        "spaces": SPACES,
        "recipes": RECIPES,
        "samplers": SAMPLERS,
        "strategies": STRATEGIES,
        "stoppers": STOPPERS,
    }
    out = castling(listing)[1]
    assert all(name in out for name in entries[listing])


def test_layers_of_a_backbone_are_listed_with_their_costs(castling: Command) -> None:
    code, out, _ = castling("layers", "levit_128", "--image-size", "64")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.lstrip()[:1].isdigit()]
    assert [row[0] for row in rows] == [str(layer) for layer in range(14)]
    assert rows[4][1:4] == ["stages.1.downsample.attn_downsample", "4", "16"]
    from castling.model.backbone import backbone_config
    from space.cost import cost

    softmax, castled = (
        cost(backbone_config("levit_128", operator, image_size=64)).macs
        for operator in ("softmax", "linear_angular")
    )
    listed = [sum(parse_size(row[column]) for row in rows) for column in (4, 5)]
    assert listed[0] - listed[1] == pytest.approx(softmax - castled, rel=0.05)


def test_layers_of_a_model_without_attention_are_refused(castling: Command) -> None:
    assert_refused(*castling("layers", "resnet18")[::2])
    assert_refused(*castling("layers", "deit_tiny_patch16_224", "--operator", "magic")[::2])


def test_operators_at_odd_sizes_are_refused(castling: Command) -> None:
    assert_refused(*castling("operators", "--tokens", "7")[::2])
    assert_refused(*castling("operators", "--heads", "5")[::2])


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_interrupted_training_goes_on_to_the_same_weights(
    how: signal.Signals, castling: Command, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    write_yaml(config, RunConfig.from_data({"train": {"epochs": 8}}).to_data())
    command = [sys.executable, "-m", "search", "train", str(config), "--out", str(tmp_path / "a")]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as this process: sums depend on it
    with subprocess.Popen(
        command, env=one_thread, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline().startswith("epoch 1/")
        training.send_signal(how)
        message = training.communicate(timeout=60)[1]
    assert training.returncode == 130
    assert message.splitlines()[1].startswith("interrupted; go on with: castling train ")
    assert castling("train", config, "--out", tmp_path / "a", "--resume")[0] == 0
    assert castling("train", config, "--out", tmp_path / "b")[0] == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
