"""A dataset, or a task, is one file: those on the documentation's pages, searched and trained."""

from pathlib import Path

import pytest
from plugin import blocks, install, run_with

import reports
from castling.config import DataConfig, ModelConfig
from castling.data import DATASETS
from castling.errors import ConfigError, UnknownNameError
from castling.tasks import TASKS
from castling.training.data import load_data


pytestmark = pytest.mark.timeout(300)


def test_a_dataset_and_a_task_of_one_file_each_are_searched_trained_and_gone(
    tmp_path: Path,
) -> None:
    site, run, best = (tmp_path / name for name in ("site", "run", "best"))
    recipe, config = tmp_path / "recipe.yaml", tmp_path / "config.yaml"
    for page, file in (("adding-a-dataset.md", recipe), ("adding-a-task.md", config)):
        install(page, site)
        file.write_text(blocks(page, "yaml")[0])
    both = "--set|task=rotation|--set|model.num_classes=4"
    commands = [f"search|{recipe}|{both}|--out|{run}", f"export|{run}|--out|{best}"]
    commands += [f"evaluate|{best}", f"train|{config}|--out|{tmp_path / 'trained'}"]
    ran = run_with(site, commands)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("as recorded") == 2
    assert list(reports.load(run).state) == ["trained", "trained"]
    assert "epoch 2/2: loss" in ran.stdout
    assert "stripes" not in DATASETS
    assert "rotation" not in TASKS
    with pytest.raises(
        ConfigError, match=r"must be digits, fashion-mnist, folder:PATH, hf:NAME, .*, got"
    ):
        load_data(DataConfig(name="stripes"), ModelConfig())
    with pytest.raises(
        UnknownNameError, match="task must be one of classification, multilabel; got"
    ):
        load_data(DataConfig(), ModelConfig(), "rotation")
