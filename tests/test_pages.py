"""The parts on the documentation's pages keep the contracts, by the tests that the pages show."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plugin import ROOT, blocks, registered

import castling
from castling.data import DATASETS
from castling.files import write_yaml
from castling.metrics import METRICS
from castling.operators import OPERATORS
from castling.registry import Registry
from castling.tasks import TASKS
from reports.onnx_file import write_onnx
from search.samplers import SAMPLERS
from search.stoppers import STOPPERS
from search.train import train_config


PAGES: dict[str, Registry[Any]] = {
    "adding-a-dataset.md": DATASETS,
    "adding-a-metric.md": METRICS,
    "adding-a-sampler.md": SAMPLERS,
    "adding-a-stopper.md": STOPPERS,
    "adding-a-task.md": TASKS,
    "adding-an-operator.md": OPERATORS,
}
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with ExitStack() as stack:
        for page, registry in PAGES.items():
            stack.enter_context(registered(page, registry))
        yield


for _page in PAGES:
    exec(blocks(_page, "python")[1])  # the class that pytest finds here


def test_the_code_for_a_trained_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its assertions say that Python, timm and ONNX Runtime agree."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("green", "red"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 150, (30, 40 + number, 3)).astype(np.uint8)
            pixels[..., int(name == "green")] += 100
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    shutil.copy(tmp_path / "photos" / "red" / "0.png", "photo.png")
    model = {"image_size": 8, "channels": 3, "num_classes": 2, "embed_width": 16}
    run = {"model": model, "train": {"epochs": 1}, "data": {"name": "folder:photos"}}
    write_yaml(Path("run.yaml"), run)
    train_config("run.yaml", "best")
    trained = castling.load("best")
    write_onnx(trained, Path("best"), trained.predict.preprocessing)
    names: dict[str, Any] = {}
    for code in blocks("use-a-model.md", "python"):
        exec(code, names)
    assert len(names["rows"]) == 16


def test_every_page_has_a_class_and_contributing_links_it() -> None:
    found = [name for name in globals() if name.startswith("Test")]
    assert len(found) >= len(PAGES)
    pages = sorted(path.name for path in Path(ROOT / "docs").glob("adding-*.md"))
    assert pages == sorted([*PAGES, "adding-a-dimension.md"])
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [page for page in pages if f"(docs/{page})" not in contributing] == []
