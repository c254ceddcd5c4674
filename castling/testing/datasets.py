"""The contract of datasets: they describe themselves, and return the same images every time."""

from typing import ClassVar

import numpy as np
import pytest

from castling.config import DataConfig, ModelConfig
from castling.data import DATASETS, Dataset
from castling.data.arrays import Split
from castling.training.data import load_data, load_test


class DatasetContract:
    """Tests of one dataset; a subclass sets `dataset` to the `data.name` of a config.

    A dataset of files needs the fixture `config` of its own, which writes some and names their
    folder in `path`.
    """

    dataset: ClassVar[str]

    @pytest.fixture
    def config(self) -> DataConfig:
        """Return the config of the data."""
        return DataConfig(name=self.dataset)

    @pytest.fixture
    def opened(self, config: DataConfig) -> Dataset:
        """Return the dataset, for a model that fits it."""
        kind = DATASETS[config.name.partition(":")[0]]
        channels, height, width = kind(config, ModelConfig()).info().image_shape
        model = ModelConfig(channels=channels, image_size=(height, width), patch_size=1)
        return kind(config, model)

    def test_tells_what_is_in_it(self, opened: Dataset) -> None:
        """Shape, classes and sizes make sense, and are the same when they are asked again."""
        info = opened.info()
        assert len(info.image_shape) == 3
        assert min(info.image_shape) >= 1
        assert len(set(info.classes)) == len(info.classes) >= 1
        assert "train" in info.sizes
        assert {*info.sizes} <= {"train", "validation", "test"}
        assert min(info.sizes.values()) >= 1
        assert opened.info() == info

    def test_its_splits_are_what_it_tells(self, opened: Dataset) -> None:
        """As many labels as images, each of a class; images of 8 bits, in the order of rows."""
        info = opened.info()
        for name, size in info.sizes.items():
            split = opened.open(name)
            assert split.labels.shape == (size,)
            assert split.labels.dtype == np.int64
            assert 0 <= split.labels.min() <= split.labels.max() < len(info.classes)
            rows = np.array([size - 1, 0])
            images = split.read(rows)
            assert images.shape == (2, *info.image_shape)
            assert images.dtype == np.uint8
            for row, image in zip(rows, images, strict=True):
                assert (split.read(np.array([row]))[0] == image).all()

    def test_it_reads_the_same_every_time_into_new_arrays(self, opened: Dataset) -> None:
        """So that a search that is resumed trains on the same images."""
        for name in opened.info().sizes:
            split, again = opened.open(name), opened.open(name)
            assert (split.labels == again.labels).all()
            rows = np.arange(min(8, len(split.labels)))
            images = split.read(rows)
            before = images.copy()
            images[:] = 255 - images
            assert (split.read(rows) == before).all()
            assert (again.read(rows) == before).all()

    def test_it_is_loaded_for_a_training_and_for_a_test(self, opened: Dataset) -> None:
        """With splits drawn where it has none."""
        info = opened.info()
        model = opened.model.replace(num_classes=len(info.classes))
        data, test = load_data(opened.config, model), load_test(opened.config, model)
        assert data.classes == info.classes
        drawn = [data.train, data.validation] + ([] if "test" in info.sizes else [test])
        if "validation" not in info.sizes:
            assert sum(map(len, drawn)) == info.sizes["train"]
        for split in (data.train, data.validation, test):
            assert len(split) >= 1
            assert isinstance(split, Split)  # small enough for memory
            assert split.images.shape == (len(split), *info.image_shape)
