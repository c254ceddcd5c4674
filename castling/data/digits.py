"""The dataset `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

import numpy as np

from castling.data.arrays import Split
from castling.data.dataset import DATASETS, Dataset, DatasetInfo, SplitName
from castling.data.selection import split_rows


NUM_IMAGES, NUM_TEST = 1_797, 360


@DATASETS.register("digits")
class Digits(Dataset):
    """Digits of 8 x 8 pixels; a fifth of them is the test split."""

    def info(self) -> DatasetInfo:
        """Return shape, classes and sizes."""
        return DatasetInfo(
            image_shape=(1, 8, 8),
            classes=tuple("0123456789"),
            sizes={"train": NUM_IMAGES - NUM_TEST, "test": NUM_TEST},
        )

    def open(self, split: SplitName) -> Split:
        """Return the training or the test images."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        labels = bunch.target.astype(np.int64)
        train, test = split_rows(labels, NUM_TEST, self.config)
        rows = test if split == "test" else train
        images = (bunch.images[rows] * 15).astype(np.uint8)[:, None]
        return Split(images=images, labels=labels[rows])
