"""Each image is decoded once, and those for tests only where a model is tested."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from castling.config import DataConfig, ModelConfig, RunConfig
from castling.data.folder import Folder
from castling.training.data import load_data, load_test
from search.train import train_config


MODEL = ModelConfig(image_size=8, channels=3, num_classes=2)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Fifty images of noise in two class folders."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(25):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded."""
    counts: Counter[str] = Counter()
    really_begin = PngImageFile.load_prepare

    def counted(image: PngImageFile) -> None:
        counts[str(image.filename)] += 1
        really_begin(image)

    monkeypatch.setattr(PngImageFile, "load_prepare", counted)
    return counts


def test_every_image_is_decoded_once_and_test_images_for_tests_only(
    pets: Path, decoded: Counter[str]
) -> None:
    config = DataConfig(name=f"folder:{pets}")
    data = load_data(config, MODEL)
    seen = set(decoded)
    assert len(seen) == len(data.train) + len(data.validation) == 40
    test = load_test(config, MODEL)
    assert len(test) == len(decoded) - len(seen) == 10
    assert set(decoded.values()) == {1}


def test_only_the_images_of_a_subset_are_decoded(pets: Path, decoded: Counter[str]) -> None:
    load_data(DataConfig(name=f"folder:{pets}", num_train=6, num_validation=4), MODEL)
    assert sum(decoded.values()) == 10


def test_a_training_with_its_test_decodes_every_image_once(
    pets: Path, decoded: Counter[str], tmp_path: Path
) -> None:
    run = RunConfig(model=MODEL, data=DataConfig(name=f"folder:{pets}"))
    run = run.replace(train=run.train.replace(epochs=1))
    config = tmp_path / "run.json"
    config.write_text(json.dumps(run.to_data()))
    train_config(config, tmp_path / "out")
    assert len(decoded) == 50
    assert set(decoded.values()) == {1}


def test_a_folder_tells_what_it_holds_without_decoding(pets: Path, decoded: Counter[str]) -> None:
    info = Folder(DataConfig(name=f"folder:{pets}"), MODEL).info()
    assert (info.image_shape, info.classes, dict(info.sizes)) == (
        (3, 8, 8), ("cat", "dog"), {"train": 50}
    )  # fmt: skip
    assert not decoded


PEAK = """
import resource, sys
from castling.config import DataConfig, ModelConfig
import PIL.Image, sklearn.model_selection, timm.data
from castling.training.data import load_data
def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = ModelConfig(image_size=224, patch_size=16, channels=3, num_classes=2)
before = peak()
data = load_data(DataConfig(name="folder:" + sys.argv[1]), model)
print((peak() - before) / (data.train.images.nbytes + data.validation.images.nbytes))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_large_folder_takes_little_more_memory_than_its_images(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        first = tmp_path / name / "0.jpg"
        Image.radial_gradient("L").convert("RGB").resize((224, 224)).save(first)
        for number in range(1, 750):
            (tmp_path / name / f"{number}.jpg").hardlink_to(first)
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(ran.stdout) < 1.5
