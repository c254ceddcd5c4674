"""A metric is one file: those on the documentation's page, installed, searched, bounded, gone."""

import json
from pathlib import Path

import pytest
from plugin import install, run_with

import reports
from castling.errors import RunFolderError
from castling.metrics import METRICS


RECIPE = """
space: digits
trials: 2
workers: 2
set: {train.epochs: 1, data.num_train: 200, data.num_validation: 100}
budget: {max: {peak_bytes: 5k}}
objectives: [{metric: worst_class, direction: max}, {metric: peak_bytes, direction: min}]
"""

PRINT_TRIALS = """
import reports
print(reports.load({run!r}, refused=True).to_json(orient="records"))
"""

pytestmark = pytest.mark.timeout(240)


def test_metrics_in_one_file_are_listed_searched_bounded_reported_and_gone(tmp_path: Path) -> None:
    install("adding-a-metric.md", tmp_path / "site")
    recipe, run, best = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "best"
    recipe.write_text(RECIPE)
    bounds = "--max|peak_bytes=3k|--max|train_seconds=1000"
    lines = [
        "metrics",
        f"search|{recipe}|--out|{run}|--max|train_seconds=1000",
        f"front|{run}|{bounds}",
        f"export|{run}|--out|{best}|{bounds}",
        f"report|{run}",
    ]
    ran = run_with(tmp_path / "site", lines, then=PRINT_TRIALS.format(run=str(run)))
    assert ran.returncode == 0, ran.stderr
    assert "validation accuracy of the worst class" in ran.stdout
    assert "peak_bytes at most 5.00k bytes and train_seconds at most 1000.0 s" in ran.stdout
    assert "relative hypervolume" in ran.stdout
    trials = json.loads(ran.stdout.splitlines()[-1])
    trained = [trial for trial in trials if trial["state"] == "trained"]
    assert len(trained) == 2
    for trial in trained:
        assert trial["peak_bytes"] <= 5_000
        assert 0.0 <= trial["worst_class"] <= trial["top1"]
    exported = json.loads((best / "metrics.json").read_text())["metrics"]
    assert exported["peak_bytes"] <= 3_000
    assert {*exported} == {"peak_bytes", "worst_class"}
    page = (run / "report" / "index.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert (data["x"], data["y"]) == ("peak_bytes", "worst_class")
    assert {"peak_bytes", "worst_class"} <= {*data["metrics"]}
    assert len(data["columns"]["worst_class"]) == len(trials)
    curves = [
        json.loads(line) for line in (run / "curves" / "00000.jsonl").read_text().split("\n")[:1]
    ]
    assert "worst_class" in curves[0]["metrics"]

    assert "peak_bytes" not in METRICS
    with pytest.raises(
        RunFolderError,
        match=r"max\.peak_bytes: must bound one of .* of a package that is installed",
    ):
        reports.load(run)
