"""Datasets: importing this package registers castling's own.

Installed distributions add theirs through the entry point group `castling.datasets`.
"""

import importlib

from castling.data.dataset import DATASETS, Dataset


for _name in (
    *("digits", "fashion_mnist", "folder", "hugging_face", "pack", "shards", "torchvision_sets"),
):
    importlib.import_module(f"{__name__}.{_name}")

__all__ = ["DATASETS", "Dataset"]
