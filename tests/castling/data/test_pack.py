"""Packs: written once, gone on with, mapped; a stale or damaged one is one sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from castling.config import AugmentConfig, DataConfig, ModelConfig, RunConfig
from castling.data import DATASETS, pack as pack_module
from castling.data.pack import read_about
from castling.data.selection import Selection
from castling.errors import DataError
from castling.training.data import training_batches, training_data
from search.commands.data import pack


MODEL = ModelConfig(image_size=16, patch_size=4, channels=3, num_classes=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve parts of photographs of 60 to 71 x 50 pixels in two folders."""
    for label, photo in enumerate(load_sample_images().images):
        (tmp_path / "photos" / f"c{label}").mkdir(parents=True)
        for number in range(6):
            part = Image.fromarray(photo[number * 30 :][:50, : 60 + number])
            part.save(tmp_path / "photos" / f"c{label}" / f"{number}.png")
    return tmp_path / "photos"


def opened(out: Path, model: ModelConfig = MODEL) -> Selection:
    return Selection.whole(DATASETS["pack"](DataConfig(name=f"pack:{out}"), model).open("train"))


def test_a_pack_holds_the_shrunk_pictures_and_is_a_source(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    pack(photos, out, size=25)
    stored = opened(out)
    folder = DATASETS["folder"](DataConfig(name=f"folder:{photos}"), MODEL).open("train")
    assert (stored.labels == folder.labels).all()
    for row in range(12):
        original = folder.picture(row)
        shrunk = original.resize((round(original.width / 2), 25), Image.Resampling.BICUBIC)
        assert (np.asarray(stored.picture(row)) == np.asarray(shrunk)).all()
        assert stored.source.name(row) == folder.name(row)
    assert opened(out, MODEL.replace(channels=1)).picture(0).mode == "L"
    data = training_data(RunConfig(model=MODEL, data=DataConfig(name=f"pack:{out}")))
    assert data.classes == ("c0", "c1")


def test_an_interrupted_pack_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(photos, tmp_path / "whole", size=25)
    really, calls = pack_module._shrunk, []

    def dying(picture: Image.Image, size: int) -> np.ndarray:
        calls.append(size)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return really(picture, size)

    monkeypatch.setattr(pack_module, "_shrunk", dying)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        pack(photos, out, size=25)
    assert not out.exists()
    with (tmp_path / "out.partial" / "pixels.bin").open("ab") as file:
        file.write(b"half of an image")  # as a kill leaves it
    pack(photos, out, size=25)
    assert len(calls) == 8 + 5
    for name in ("pixels.bin", "index.bin", "names.txt"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stale_or_damaged_pack_is_one_sentence(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    pack(photos, out, size=25)
    with pytest.raises(DataError, match="the folder exists"):
        pack(photos, out, size=25)
    pixels = (out / "pixels.bin").read_bytes()
    (out / "pixels.bin").write_bytes(bytes([pixels[0] ^ 1]) + pixels[1:])
    with pytest.raises(DataError, match=re.escape("0.png is damaged in it; remove it")):
        opened(out).picture(0)
    (out / "pixels.bin").write_bytes(pixels[:-1])
    with pytest.raises(DataError, match="cut short"):
        opened(out)
    (out / "pixels.bin").write_bytes(pixels)
    (photos / "c0" / "0.png").write_bytes((photos / "c0" / "1.png").read_bytes())
    with pytest.raises(DataError, match="have changed since it was made; remove it"):
        opened(out)
    for text in ("", "{}", "[]", '{"format": "other"}'):
        (out / "pack.json").write_text(text)
        with pytest.raises(DataError, match=r"no whole pack|another version"):
            read_about(out)


def test_the_cache_on_disk_is_a_pack_that_trainings_share(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = DataConfig(name=f"folder:{photos}", cache="disk", loader_workers=1)
    run = RunConfig(model=MODEL, data=config)
    run = run.replace(train=run.train.replace(augment=AugmentConfig(preset="timm")))
    first = training_data(run)
    monkeypatch.setattr(pack_module, "write_pack", None)  # the second finds it
    again = training_data(run)
    assert first.preprocessing == again.preprocessing
    order, sizes = torch.arange(len(first.train)), [len(first.train)]
    plain = training_data(run.replace(data=config.replace(cache="off")))
    shown = []
    for data in (first, again, plain):
        batches, _ = training_batches(data, run, torch.device("cpu"))
        shown.append(next(iter(list(batches.shuffled(order, sizes)))))
        batches.close()
    assert torch.equal(shown[0].images, shown[1].images)
    assert torch.equal(shown[0].images, shown[2].images)  # no side is above 256
