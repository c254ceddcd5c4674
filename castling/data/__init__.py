"""Datasets: importing this package registers digits, fashion-mnist, folder and pack.

Installed distributions add theirs through the entry point group `castling.datasets`.
"""

import importlib

from castling.data.dataset import DATASETS, Dataset


for _name in ("digits", "fashion_mnist", "folder", "pack"):
    importlib.import_module(f"{__name__}.{_name}")

__all__ = ["DATASETS", "Dataset"]
