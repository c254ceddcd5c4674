"""One real search on digits, small, whose products many tests look at."""

from pathlib import Path

import pytest

import search


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trials of two epochs, searched with two real Ray workers."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    search.run("smoke", out=folder, trials=3, workers=2, settings={"train.epochs": 2})
    return folder
