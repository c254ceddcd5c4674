"""An operator is one file: the one on the documentation's page, registered, searched, gone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reports
from castling.operators import OPERATORS


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-an-operator.md").read_text(encoding="utf-8")
RECIPE = """
space: digits
trials: 2
workers: 1
set: {train.epochs: 1}
dimensions:
  - {target: "model.blocks.*.operator", choices: [average]}
"""

pytestmark = pytest.mark.timeout(120)


def castling(*arguments: str, path: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """Install the page's file as a distribution of its own, on a path of its own."""
    site = tmp_path / "site"
    information = site / "average-1.0.dist-info"
    information.mkdir(parents=True)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    (site / "average_operator.py").write_text(code[1])
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: average\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[castling.operators]\naverage = average_operator\n"
    )
    return site


def test_an_operator_in_one_file_is_listed_searched_exported_and_gone(
    distribution: Path, tmp_path: Path
) -> None:
    recipe, run, best = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "best"
    recipe.write_text(RECIPE)
    assert "average" in castling("operators", path=distribution).stdout
    searched = castling("search", str(recipe), "--out", str(run), path=distribution)
    assert searched.returncode == 0, searched.stderr
    trials = reports.load(run)
    assert list(trials.state) == ["trained", "trained"]
    exported = castling("export", str(run), "--out", str(best), path=distribution)
    assert exported.returncode == 0, exported.stderr
    assert castling("evaluate", str(best), path=distribution).returncode == 0
    without = castling("evaluate", str(best), path=tmp_path)
    assert without.returncode == 2
    assert "operator: must be one of" in without.stderr
    assert "average" not in OPERATORS
