"""One Ray for all searches of a test process, and one small real search for many tests."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
from filelock import FileLock

import search
from search.execution.cluster import joined


os.environ.setdefault("RAY_worker_niceness", "0")  # else tests beside them starve the workers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every search four minutes: Ray takes a minute to start on a machine that is busy."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(240))


@pytest.fixture(scope="session")
def _end() -> Iterator[ExitStack]:
    with ExitStack() as end:
        yield end


def _share_ray(end: ExitStack) -> None:
    if not ray.is_initialized():
        end.enter_context(joined(None, at_least=2))


@pytest.fixture
def ray_session(_end: ExitStack) -> None:
    """Let searches in this process share one Ray: starting it takes longer than a small search."""
    _share_ray(_end)


@pytest.fixture
def no_ray() -> None:
    """End the shared Ray, so that a search must start its own."""
    ray.shutdown()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str, _end: ExitStack) -> Path:
    """Three trials of two epochs, searched with two real Ray workers, once for all processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "small-run"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _share_ray(_end)
            begun = tmp_path_factory.mktemp("small") / "run"
            search.run("smoke", out=begun, trials=3, workers=2, settings={"train.epochs": 2})
            begun.rename(folder)
    return folder
