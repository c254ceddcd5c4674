"""Training recipes in `castling train` and in searches, on crops of scikit-learn's two photos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.models.mvitv2 import MultiScaleVitCfg, model_cfgs
from typer.testing import CliRunner

from castling.config import RunConfig
from castling.errors import ConfigError
from castling.model.check import read_run_config
from castling.training.recipes import TRAININGS, read_training
from reports.model_metrics import ModelMetrics
from search.cli import app
from search.config import SearchConfig


SMALL: dict[str, dict[str, object]] = {
    "deit_tiny": {"embed_dim": 24, "depth": 2, "num_heads": 2},
    "levit_128": {"embed_dim": [16, 24, 32], "key_dim": 4, "num_heads": [1, 2, 3]},
    "mvitv2_tiny": {"cfg_variant": "castling_small"},
}
"""Options that make timm's models of these spaces small."""
model_cfgs["castling_small"] = MultiScaleVitCfg(
    depths=(1, 2), embed_dim=(8, 16), num_heads=(1, 2), stride_q=((1, 1), (2, 2))
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders `china` and `flower`: 14 crops each, of varied sizes."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(14):
            height, width = rng.integers(40, 90, 2)
            top, left = rng.integers(0, [photo.shape[0] - height, photo.shape[1] - width])
            crop = photo[top : top + height, left : left + width]
            Image.fromarray(crop).save(root / name / f"{number}.jpg")
    return root


def train(
    space: str, photos: Path, out: Path, options: Sequence[object], depth: int | None = None
) -> RunConfig:
    """Train the base of a space for one epoch of one step; return the config that was written."""
    small = yaml.safe_dump(SMALL[space], default_flow_style=True, width=1000).strip()
    settings = ["model.image_size=32", f"model.options={small}", "train.epochs=1"]
    settings += ["train.batch_size=16"]
    if depth is not None:
        settings.append(f"model.blocks={[{'operator': 'linear_angular'}] * depth}")
    chosen = [word for setting in settings for word in ("--set", setting)]
    words = ["train", space, "--images", photos, *options, *chosen, "--out", out]
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert ModelMetrics.read(out).epochs == 1
    return read_run_config(out)


@pytest.fixture(scope="module")
def deit(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of DeiT's recipe."""
    out = tmp_path_factory.mktemp("deit") / "out"
    assert_recipe(train("deit_tiny", photos, out, ["--training", "deit"], depth=2), "deit")
    return out


def assert_recipe(run: RunConfig, name: str, **others: object) -> None:
    """The config has the recipe's fields but for those of `train` and the others."""
    expected = RunConfig(train=read_training(name).train).train
    expected = expected.replace(epochs=1, batch_size=16, **others)
    assert run.train == expected
    assert run.data.name.startswith("folder:/")
    assert run.model.num_classes == 2


def test_finetune_begins_with_the_weights_of_another_model(
    deit: Path, photos: Path, tmp_path: Path
) -> None:
    options = ["--training", "finetune", "--from", deit]
    run = train("deit_tiny", photos, tmp_path / "out", options, depth=2)
    assert_recipe(run, "finetune", initial=str(deit))


def test_levit_learns_from_a_teacher(deit: Path, photos: Path, tmp_path: Path) -> None:
    teacher = {"teacher": str(deit), "form": "hard"}
    options = ["--training", "levit", "--set", f"train.distill={teacher}"]
    run = train("levit_128", photos, tmp_path / "out", options)
    assert_recipe(run, "levit", distill=teacher)


def test_mvitv2_trains(photos: Path, tmp_path: Path) -> None:
    run = train("mvitv2_tiny", photos, tmp_path / "out", ["--training", "mvitv2"], 3)
    assert_recipe(run, "mvitv2")


def test_without_the_images_that_a_space_names_one_sentence_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", "deit_tiny", "--out", str(tmp_path / "out")])
    sentence = str(result.exception)
    assert sentence.startswith("data folder:imagenet: imagenet is not a folder; give --images")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", list(TRAININGS))
def test_a_search_takes_a_recipe_and_settings_win_over_it(name: str) -> None:
    config = SearchConfig(space="deit_tiny", training=name, set={"train.epochs": 3})
    space = config.build_space()
    expected = RunConfig(train=read_training(name).train).train
    assert space.base.train == expected.replace(epochs=3)
    assert not [target for target in space.domains if target.startswith("train.")]
    rate = {"target": "train.learning_rate", "low": 1e-4, "high": 1e-3, "log": True}
    searched = SearchConfig.from_data({**config.to_data(), "dimensions": [rate]}).build_space()
    assert [target for target in searched.domains if target.startswith("train.")] == [
        "train.learning_rate"
    ]


def test_an_unknown_training_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match="training: must be one of deit, finetune"):
        SearchConfig(training="nope").build_space()
