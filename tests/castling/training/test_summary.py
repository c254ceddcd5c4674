"""What the user sees of the images before anything is trained."""

from pathlib import Path

import pytest
from PIL import Image

from castling.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from castling.training.data import training_data
from castling.training.summary import describe, few_steps


def test_images_classes_splits_sizes_skipped_and_steps_are_described(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (6 + number, 20 - number)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "cat" / "3.png").write_bytes(b"broken")
    run = RunConfig(
        model=ModelConfig(image_size=(4, 4), patch_size=2, channels=1, num_classes=2),
        data=DataConfig(name=f"folder:{tmp_path}", on_error="skip"),
        train=TrainConfig(batch_size=4),
    )
    first, skipped, warning = describe(run, training_data(run))
    assert first == (
        f"folder:{tmp_path}: 19 images of 2 classes (cat, dog); 12 to train, 4 to validate, "
        "3 to test (validation and test drawn from the training images); "
        "6 to 15 pixels wide, 11 to 20 high, of 19 measured"
    )
    assert skipped.startswith("skipped: 1 files, all of them in skipped_images.csv: cat/3.png: ")
    assert warning.startswith("warning: 12 training images at batch 4 make 3 steps an epoch")
    assert "train.batch_size=1 would make 12" in warning


@pytest.mark.parametrize(
    ("images", "batch", "words"),
    [
        (240, 256, "make 1 step an epoch: train.batch_size=16 would make 15"),
        (11, 4, "train.batch_size=1 would make 11"),
        (3, 2, "train.batch_size=1 would make 3"),
    ],
)
def test_a_batch_of_few_steps_is_warned_of_with_a_better_one(
    images: int, batch: int, words: str
) -> None:
    (said,) = few_steps(images, batch)
    assert words in said


@pytest.mark.parametrize(("images", "batch"), [(240, 25), (1077, 64), (5, 1)])
def test_enough_steps_are_not_warned_of(images: int, batch: int) -> None:
    assert [*few_steps(images, batch)] == []
