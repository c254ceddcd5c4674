"""Castling's own datasets keep the contract of all datasets."""

from pathlib import Path

import numpy as np
import pytest
from idx_files import write_blank_images
from PIL import Image

from castling.config import DataConfig
from castling.testing import DatasetContract


class TestDigits(DatasetContract):
    dataset = "digits"


class TestFashionMnist(DatasetContract):
    dataset = "fashion-mnist"

    @pytest.fixture
    def config(self, tmp_path: Path) -> DataConfig:
        write_blank_images(tmp_path, train=100, test=30)
        return DataConfig(name=self.dataset, path=tmp_path)


class TestFolder(DatasetContract):
    @pytest.fixture
    def config(self, tmp_path: Path) -> DataConfig:
        """Write ten noisy images of each of two classes."""
        rng = np.random.default_rng(0)
        for name in ("cat", "dog"):
            folder = tmp_path / name
            folder.mkdir()
            for number in range(10):
                pixels = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        return DataConfig(name=f"folder:{tmp_path}")
