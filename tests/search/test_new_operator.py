"""An operator is one file: the one on the documentation's page, registered, searched, gone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from plugin import install, run_with

import reports
import search
from castling.config import RunConfig
from castling.errors import ConfigError, OperatorError
from castling.files import write_yaml
from castling.operators import OPERATORS
from castling.operators.modules.softmax import SoftmaxAttention
from reports.export import evaluate_folder
from search.train import train_config


RECIPE = """
space: digits
trials: 2
workers: 1
set: {train.epochs: 1}
dimensions:
  - {target: "model.blocks.*.operator", choices: [average]}
"""

pytestmark = pytest.mark.timeout(120)


def test_an_operator_in_one_file_is_listed_searched_exported_and_gone(tmp_path: Path) -> None:
    recipe, run, best = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "best"
    install("adding-an-operator.md", tmp_path / "site")
    recipe.write_text(RECIPE)
    lines = ["operators", f"search|{recipe}|--out|{run}", f"export|{run}|--out|{best}"]
    lines.append(f"evaluate|{best}")
    ran = run_with(tmp_path / "site", lines)
    assert ran.returncode == 0, ran.stderr
    assert "the mean of all values, to every token" in ran.stdout
    assert ran.stdout.count(", as recorded") == 8  # four metrics of two splits
    assert list(reports.load(run).state) == ["trained", "trained"]
    assert "average" not in OPERATORS
    with pytest.raises(ConfigError, match=r"blocks\.0\.operator: must be one of"):
        evaluate_folder(best)


class EluAttention(SoftmaxAttention):
    """Softmax attention with an activation that castling has not met."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.elu(super().forward(x))


def test_an_operator_that_an_export_would_refuse_is_refused_before_anything_trains(
    tmp_path: Path,
) -> None:
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    with OPERATORS.temporarily("average", replace(OPERATORS["softmax"], build=EluAttention)):
        with pytest.raises(OperatorError, match="average: no count is known for aten::elu") as no:
            search.run(str(recipe), out=run)
        assert no.value.is_bad_input
        config = tmp_path / "config.yaml"
        write_yaml(config, RunConfig().to_data(), "Of one block.")
        with pytest.raises(OperatorError, match="aten::elu"):
            train_config(config, run, settings={"model.blocks.0.operator": "average"})
    assert not run.exists()
