"""Datasets: importing this package registers every dataset that has a file in it, and plugins'."""

import importlib
from importlib.metadata import entry_points

from castling.data.dataset import DATASETS, Dataset


for _name in ("digits", "fashion_mnist", "folder"):
    importlib.import_module(f"{__name__}.{_name}")
for _plugin in entry_points(group="castling.datasets"):
    _plugin.load()

__all__ = ["DATASETS", "Dataset"]
