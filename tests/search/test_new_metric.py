"""A metric is one file: those on the documentation's page, installed, searched, bounded, gone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reports
from castling.errors import RunFolderError
from castling.metrics import METRICS


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-metric.md").read_text(encoding="utf-8")
RECIPE = """
space: digits
trials: 2
workers: 2
set: {train.epochs: 1, data.num_train: 200, data.num_validation: 100}
budget: {max: {peak_bytes: 5k}}
objectives: [{metric: worst_class, direction: max}, {metric: peak_bytes, direction: min}]
"""

COMMANDS = """
import sys
from search.cli import main
run = sys.argv[2]
for words in sys.argv[1].splitlines():
    sys.argv = ["castling", *words.split("|")]
    try:
        main()
    except SystemExit as end:
        assert not end.code, sys.argv
import reports
trials = reports.load(run, refused=True)
print(trials.to_json(orient="records"))
"""
"""Runs command lines, one after the other, in one process, then prints a run's trials."""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """Install the page's file as a distribution of its own, on a path of its own."""
    site = tmp_path / "site"
    information = site / "more_metrics-1.0.dist-info"
    information.mkdir(parents=True)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    (site / "more_metrics.py").write_text(code[1])
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: more_metrics\nVersion: 1.0\n"
    )
    (information / "entry_points.txt").write_text("[castling.metrics]\nmore = more_metrics\n")
    return site


def test_metrics_in_one_file_are_listed_searched_bounded_reported_and_gone(
    distribution: Path, tmp_path: Path
) -> None:
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
    with_metrics = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(distribution), str(ROOT)]),
        "COLUMNS": "200",
    }
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, "\n".join(lines), str(run)],
        capture_output=True,
        text=True,
        env=with_metrics,
        check=False,
    )
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
    assert "<th>peak_bytes</th>" in page
    assert "<th>worst_class</th>" in page
    assert "worst_class (%) against peak_bytes (bytes)" in page
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
