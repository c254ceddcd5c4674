"""The training recipes have the published values, and change what they say they change."""

from pathlib import Path
from typing import Any

import pytest

from castling.config import (
    AugmentConfig,
    BackboneConfig,
    BlockConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from castling.errors import ConfigError
from castling.model.build import build
from castling.model.storage import begin_with
from castling.training.recipes import TRAININGS, read_training, training_settings
from castling.training.schedule import learning_rate


RAND = "rand-m9-mstd0.5-inc1"
PUBLISHED: dict[str, dict[str, Any]] = {
    "deit": {
        "epochs": 300,
        "batch_size": 1024,
        "weight_decay": 0.05,
        "warmup_epochs": 5,
        "clip_norm": None,
        "drop_path": 0.1,
        "label_smoothing": 0.1,
        "ema_decay": 0.99996,
        "distill": None,
        "augment": (RAND, 0.3, 0.25, 0.8, 1.0, 3),
        "rates": (1e-6, 5e-4 * 1024 / 512, 1e-5),
    },
    "levit": {
        "epochs": 1000,
        "batch_size": 256,
        "weight_decay": 0.025,
        "warmup_epochs": 5,
        "clip_norm": 0.01,
        "clip_mode": "agc",
        "drop_path": 0.0,
        "label_smoothing": 0.1,
        "ema_decay": None,
        "distill": ("regnety_160.deit_in1k", "hard", 0.5),
        "augment": (RAND, 0.3, 0.25, 0.8, 1.0, 3),
        "rates": (1e-6, 5e-4 * 256 / 512, 1e-5),
    },
    "mvitv2": {
        "epochs": 300,
        "batch_size": 2048,
        "weight_decay": 0.05,
        "warmup_epochs": 70,
        "clip_norm": 1.0,
        "clip_mode": "norm",
        "drop_path": 0.1,
        "label_smoothing": 0.1,
        "ema_decay": None,
        "distill": None,
        "augment": ("rand-m9-n6-mstd0.5", 0.4, 0.25, 0.8, 1.0, 1),
        "rates": (8 * 1e-8, 8 * 2.5e-4, 8 * 1e-6),
    },
    "finetune": {
        "initial": "pretrained",
        "epochs": 30,
        "batch_size": 64,
        "weight_decay": 0.05,
        "warmup_epochs": 5,
        "clip_norm": None,
        "drop_path": 0.1,
        "label_smoothing": 0.1,
        "layer_decay": 0.75,
        "ema_decay": None,
        "distill": None,
        "augment": (RAND, 0.0, 0.25, 0.0, 0.0, 1),
        "rates": (1e-3 * 64 / 256 / (5 * 10), 1e-3 * 64 / 256, 1e-6),
    },
}
"""Of the papers and their repositories, which the files name; rates are those of the first step,
at the peak and at the end. `augment` is policy, jitter, erasing, mixup, CutMix, repetitions."""
MACHINE = {"accumulation", "precision", "compile", "checkpoint_minutes", "seed"}
"""Fields of the machine and the run: no recipe sets them."""
OF_A_TASK = {"class_weights", "sampler", "gate_target", "gate_weight", "gate_rate"}
ALTERNATIVES = {"warmup", "final_learning_rate", "decay_epochs", "decay_rate"}
"""Fields that others replace in a recipe, or that its schedule does not read."""


def shaped(train: TrainConfig) -> dict[str, Any]:
    filled = train.augment.filled()
    names = ("auto_augment", "color_jitter", "random_erase", "mixup", "cutmix", "repeated")
    taught = train.distill and (train.distill.teacher, train.distill.form, train.distill.weight)
    last = train.epochs * 10
    steps = (0, round((train.warmup_epochs or 0) * 10), last)
    return {
        **dict(train),
        "augment": tuple(getattr(filled, name) for name in names),
        "distill": taught,
        "rates": pytest.approx(tuple(learning_rate(train, step, last, 10) for step in steps)),
    }


def test_every_recipe_is_compared() -> None:
    assert {*PUBLISHED} == {*TRAININGS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_values(name: str) -> None:
    recipe = read_training(name)
    train = TrainConfig.from_data(recipe.train)
    found = {**shaped(train), "drop_path": recipe.drop_path}
    for field, value in PUBLISHED[name].items():
        assert found[field] == value, field
    assert (train.optimizer, train.schedule, train.keep) == ("adamw", "cosine", "last")
    filled = train.augment.filled()
    assert (filled.interpolation, filled.hflip) == ("bicubic", 0.5)
    assert (filled.mix_probability, filled.mix_switch) == (1.0, 0.5)
    text = TRAININGS[name].text
    assert "source    " in text
    assert "github.com/" in text


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_leaves_no_field_of_the_training_scheme_to_the_config(name: str) -> None:
    """What a training comes to does not depend on what the recipe was applied to."""
    free = MACHINE | OF_A_TASK | ALTERNATIVES | {"initial", "distill"}
    assert {*TrainConfig.model_fields} - free <= {*read_training(name).train}
    assert not {*read_training(name).train} & (MACHINE | OF_A_TASK)


def deit(**fields: Any) -> BackboneConfig:
    return BackboneConfig(backbone="deit_tiny_patch16_224", blocks=("softmax",) * 12, **fields)


def test_drop_path_is_that_of_the_kind_of_model() -> None:
    def set_in(name: str, model: Any) -> dict[str, Any]:
        settings = training_settings(name, RunConfig(model=model))
        return {path: value for path, value in settings.items() if path.startswith("model.")}

    stock, with_rate = deit(), deit(options={"drop_path_rate": 0.2})
    assert set_in("deit", stock) == {"model.options.drop_path_rate": 0.1}
    assert set_in("levit", stock) == {}
    assert set_in("levit", with_rate) == {"model.options.drop_path_rate": 0.0}
    own = ModelConfig(blocks=(BlockConfig(),) * 3)
    rising = {f"model.blocks.{index}.drop_path": 0.05 * index for index in range(3)}
    assert set_in("deit", own) == pytest.approx(rising)


def test_initial_weights_that_a_config_names_stay() -> None:
    named = RunConfig(model=deit(), train=TrainConfig(initial="mine.pth"))
    assert "train.initial" not in training_settings("finetune", named)
    settings = training_settings("finetune", RunConfig(model=deit()))
    assert settings["train.initial"] == "pretrained"


def test_drop_path_does_not_make_another_architecture() -> None:
    """Weights of a model that was trained without it begin a training with it."""
    small = {"embed_dim": 12, "depth": 2, "num_heads": 2}
    fields = {"backbone": "deit_tiny_patch16_224", "image_size": 32, "num_classes": 2}
    for without, with_rate in (
        (
            BackboneConfig(**fields, blocks=("softmax",) * 2, options=small),
            BackboneConfig(
                **fields, blocks=("softmax",) * 2, options={**small, "drop_path_rate": 0.1}
            ),
        ),
        (ModelConfig(), ModelConfig(blocks=(BlockConfig(drop_path=0.2),))),
    ):
        assert begin_with(build(with_rate, seed=1), build(without, seed=2))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {epoch: 3}", "train: epoch: is not a field of TrainConfig"),
        ("train: {augment: {preset: x}}", "augment.preset: must be 'small', 'timm'"),
        ("drop_path: 1.0", "drop_path: must be less than 1"),
        ("epochs: 3", "epochs: is not a field of TrainingRecipe"),
        ("[1]", "must be a mapping of TrainingRecipe fields"),
    ],
)
def test_a_bad_recipe_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_training(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_lists_the_others() -> None:
    with pytest.raises(ConfigError, match="one of deit, finetune, levit, mvitv2, or the path"):
        read_training("nope")


def test_a_recipe_of_a_file_replaces_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 7, augment: {flip: true}}\n")
    settings = training_settings(str(file), RunConfig())
    assert settings == {"train.epochs": 7, "train.augment": {"flip": True}}
    assert AugmentConfig(**settings["train.augment"]).flip
