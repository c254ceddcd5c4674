"""The parts on the documentation's pages keep the contracts, by the tests that the pages show."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from plugin import ROOT, blocks, registered

from castling.data import DATASETS
from castling.metrics import METRICS
from castling.operators import OPERATORS
from castling.registry import Registry
from castling.tasks import TASKS
from search.samplers import SAMPLERS
from search.stoppers import STOPPERS


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


def test_every_page_has_a_class_and_contributing_links_it() -> None:
    found = [name for name in globals() if name.startswith("Test")]
    assert len(found) >= len(PAGES)
    pages = sorted(path.name for path in Path(ROOT / "docs").glob("adding-*.md"))
    assert pages == sorted([*PAGES, "adding-a-dimension.md"])
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [page for page in pages if f"(docs/{page})" not in contributing] == []
