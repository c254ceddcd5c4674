import tracemalloc

import numpy as np
import pytest

from castling.config import DataConfig, ModelConfig
from castling.data import DATASETS, statistics as statistics_module
from castling.data.arrays import Split
from castling.data.dataset import Dataset, DatasetInfo, Images, Rows, SplitName
from castling.data.statistics import statistics
from castling.training.data import load_data


def test_counted_and_summed_statistics_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 7, 5), dtype=np.uint8)
    images[:, 1] //= 4
    images[:, 2] = 9
    summed = statistics(images)
    monkeypatch.setattr(statistics_module, "EXACT_BELOW", 0)
    monkeypatch.setattr(statistics_module, "CHUNK", 7 * 7 * 5)  # the last chunk is of one image
    counted = statistics(images)
    scaled = images / 255.0
    for found in (summed, counted):
        assert found.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), rel=1e-5)
        assert found.std == pytest.approx(np.maximum(scaled.std(axis=(0, 2, 3)), 1e-6), abs=1e-6)


SHAPE = (3, 64, 64)


class Grey:
    """Images that are made when they are read."""

    def __init__(self, size: int) -> None:
        self.labels = np.arange(size) % 2

    def read(self, rows: Rows) -> Images:
        return np.full((len(rows), *SHAPE), 7, np.uint8)


class Walls(Dataset):
    def info(self) -> DatasetInfo:
        return DatasetInfo(image_shape=SHAPE, classes=("a", "b"), sizes={"train": 2000})

    def open(self, _: SplitName) -> Grey:
        return Grey(2000)


def test_images_are_loaded_in_little_more_than_their_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics_module, "EXACT_BELOW", 0)
    monkeypatch.setattr(statistics_module, "CHUNK", 2**16)
    model = ModelConfig(image_size=64, patch_size=8, channels=3, num_classes=2)
    with DATASETS.temporarily("walls", Walls):
        load_data(DataConfig(name="walls", num_train=2), model)  # imports what it needs
        tracemalloc.start()
        data = load_data(DataConfig(name="walls"), model)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    held = sum(split.images.nbytes for split in (data.train, data.validation))
    assert held == 1600 * 3 * 64 * 64
    assert peak < 1.25 * held


def test_arrays_in_memory_are_read_as_copies() -> None:
    split = Split(images=np.zeros((4, 1, 2, 2), np.uint8), labels=np.arange(4))
    split.read(np.array([1, 2]))[...] = 1
    assert not split.images.any()
