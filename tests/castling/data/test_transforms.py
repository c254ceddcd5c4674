"""The evaluation transform is timm's; presets run over a thousand pictures."""

import json
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform

from castling.config import AugmentConfig, DataConfig, ModelConfig, Preprocessing, RunConfig
from castling.data.dataset import DatasetInfo
from castling.data.transforms import (
    evaluation_pixels,
    evaluation_transform,
    normalised,
    seed_all,
    training_pixels,
)
from castling.errors import ConfigError
from castling.training.data import load_data
from castling.training.preprocessing import crop_of, needs_statistics


GREY = Preprocessing(image_size=(24, 24), channels=1, mean=(0.3,), std=(0.2,))
RGB = GREY.replace(channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """Two photographs of scikit-learn, whole and in parts of other aspect ratios."""
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [part for photo in whole for part in (photo, photo.crop((9, 0, 99, 300)))]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("preprocessing", [RGB, GREY, RGB.replace(image_size=(24, 40))])
def test_the_evaluation_transform_is_timms(
    photos: list[Image.Image], mode: str, interpolation: str, preprocessing: Preprocessing
) -> None:
    shown = preprocessing.replace(crop_mode=mode, interpolation=interpolation, crop_pct=0.9)
    theirs = create_transform(
        input_size=(shown.channels, *shown.image_size),
        mean=shown.mean,
        std=shown.std,
        crop_mode=mode,
        crop_pct=0.9,
        interpolation=interpolation,
    )
    mean, std = (torch.tensor(value)[:, None, None] for value in (shown.mean, shown.std))
    for photo in photos:
        ours = evaluation_transform(shown)(photo)
        assert torch.equal(ours, theirs(photo.convert("L" if shown.channels == 1 else "RGB")))
        assert torch.equal(ours, normalised(evaluation_pixels(shown)(photo), mean, std))


@pytest.mark.parametrize("preset", ["timm", "deit", "levit", "mvitv2"])
@pytest.mark.parametrize("preprocessing", [RGB, GREY], ids=["rgb", "grey"])
def test_a_preset_runs_over_a_thousand_pictures(
    photos: list[Image.Image], preset: str, preprocessing: Preprocessing
) -> None:
    # a strong policy: half of its draws posterize to no bit at all, which Pillow 13 refuses
    policy = "off" if preset == "timm" else "rand-m9-mstd2.0-inc1"
    small = [photo.resize((40, 30)) for photo in photos]
    own = training_pixels(AugmentConfig(preset=preset), preprocessing)
    strong = training_pixels(AugmentConfig(preset=preset, auto_augment=policy), preprocessing)
    seen = set()
    for number, photo in enumerate(islice(cycle(small), 1000)):
        seed_all(number)
        pixels = (own if number % 2 else strong)(photo)
        assert pixels.shape == (preprocessing.channels, 24, 24)
        assert pixels.dtype == torch.uint8
        seen.add(pixels.numpy().tobytes())
    assert len(seen) > 900  # solarize and posterize can leave one colour


FIELDS = {
    "auto_augment": "rand-m9-n6",
    "color_jitter": 0.0,
    "crop_scale": (0.9, 1.0),
    "crop_ratio": (2.0, 3.0),
    "hflip": 1.0,
    "interpolation": "lanczos",
}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_of_a_preset_acts(photos: list[Image.Image], field: str) -> None:
    def pictures(augment: AugmentConfig) -> Iterator[bytes]:
        transform = training_pixels(augment, RGB)
        for seed in range(4):
            seed_all(seed)
            yield transform(photos[0]).numpy().tobytes()

    base, changed = (AugmentConfig(preset="timm", **part) for part in ({}, {field: FIELDS[field]}))
    assert list(pictures(base)) == list(pictures(base))
    assert list(pictures(base)) != list(pictures(changed))
    with pytest.raises(ConfigError, match=f"{field}: must be left out with the preset small"):
        AugmentConfig(**{field: FIELDS[field]})


INFO = DatasetInfo(image_shape=(3, 224, 224), classes=("a", "b"), sizes={"train": 9})
VIT = {"backbone": "deit_tiny_patch16_224", "num_classes": 2, "blocks": "softmax"}


def backbone(**data: object) -> RunConfig:
    from castling.model.check import run_config

    run = run_config({"model": VIT, "train": {"initial": "pretrained"}})
    return run.replace(data=DataConfig(name="folder:x", **data))


def test_weights_of_timm_bring_their_normalisation_and_crop() -> None:
    pretrained = timm.get_pretrained_cfg("deit_tiny_patch16_224")
    shown = crop_of(backbone(), INFO, pictures=True)
    for name in ("mean", "std", "crop_pct", "crop_mode", "interpolation"):
        assert getattr(shown, name) == getattr(pretrained, name)
    assert shown.classes == ("a", "b")
    assert not needs_statistics(backbone(), pictures=True)
    assert needs_statistics(backbone(), pictures=False)  # arrays keep what they had
    assert needs_statistics(backbone(normalisation="data"), pictures=True)
    assert crop_of(backbone(), INFO, pictures=False).crop_mode == "squash"
    explicit = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}
    run = backbone(normalisation=explicit, crop_mode="border", crop_pct=0.7)
    shown = crop_of(
        run.replace(data=run.data.replace(interpolation="nearest")), INFO, pictures=True
    )
    assert (shown.mean, shown.crop_mode, shown.crop_pct) == ((0.1, 0.2, 0.3), "border", 0.7)
    assert shown.interpolation == "nearest"


def test_normalisation_that_cannot_be_is_refused() -> None:
    short = backbone(normalisation={"mean": [0.1], "std": [1.0]})
    with pytest.raises(ConfigError, match="the model's 3 channels"):
        crop_of(short, INFO, pictures=True)
    none = RunConfig(data=DataConfig(normalisation="pretrained"))
    with pytest.raises(ConfigError, match=r"train\.initial names no weights"):
        crop_of(none, INFO, pictures=True)


def test_digits_are_prepared_as_before() -> None:
    data = load_data(DataConfig(), ModelConfig())
    scaled = data.train.images.astype(np.float32) / 255.0
    assert data.preprocessing.mean == (float(scaled.mean(axis=(0, 2, 3))[0]),)
    assert data.preprocessing.std == (float(scaled.std(axis=(0, 2, 3))[0]),)
    assert data.preprocessing.crop_mode == "squash"
    assert len(data.preprocessing.classes) == 10


def test_a_training_writes_its_preprocessing(tmp_path: Path) -> None:
    from castling.model.check import read_run_config
    from search.train import train_config

    run = RunConfig(data=DataConfig(num_train=60, num_validation=20))
    run = run.replace(train=run.train.replace(epochs=1))
    config = tmp_path / "run.json"
    config.write_text(json.dumps(run.to_data()))
    train_config(config, tmp_path / "out")
    stored = read_run_config(tmp_path / "out").preprocessing
    assert stored == load_data(run.data, run.model).preprocessing
