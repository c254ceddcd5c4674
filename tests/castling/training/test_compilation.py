"""torch.compile of trainings; the backend runs the traced graphs, as inductor takes minutes."""

from typing import Any

import pytest
import torch
from torch import nn

from castling.config import MaskSchedule, RunConfig
from castling.model.build import build
from castling.training import compilation
from castling.training.compilation import compile_parts, recompilations
from castling.training.data import TrainingData
from castling.training.loop import train


LAYERS = 5
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
"""Dynamo looks at the gradients of what it guards."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the graphs that were compiled."""
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", backend)
    torch._dynamo.reset()
    return sizes


def emptying(tiny: RunConfig) -> RunConfig:
    """A branch in each layer; one after the other empties."""
    blocks = tuple(
        tiny.model.blocks[0].replace(mask=MaskSchedule(end=(layer + 1) / (LAYERS + 1)))
        for layer in range(LAYERS)
    )
    train = tiny.train.replace(epochs=LAYERS + 1, batch_size=45)
    return tiny.replace(model=tiny.model.replace(blocks=blocks), train=train)


@pytest.mark.parametrize("what", ["blocks", "model"])
def test_masks_that_empty_one_after_the_other_leave_nothing_to_eager_execution(
    what: str, tiny: RunConfig, digits: TrainingData, graphs: list[int]
) -> None:
    run = emptying(tiny)
    eager = train(run, digits, device="cpu")
    assert not graphs
    compiled = train(
        run.replace(train=run.train.replace(compile=what)), digits, device="cpu"
    )  # a return to eager execution would raise
    assert len(graphs) >= (LAYERS if what == "model" else 2)
    for one, other in zip(eager.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_too_many_compilations_are_an_error(graphs: list[int]) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    compile_parts(model, "model")
    with recompilations(model, "model"), pytest.raises(Exception, match="recompile"):  # noqa: PT012
        for value in range(100):
            model.number = value
            model.forward = lambda x, value=value: x + value  # type: ignore[method-assign]
            model(torch.ones(2))
    assert graphs


def test_blocks_are_the_repeated_parts(tiny: RunConfig) -> None:
    model = build(tiny.model, seed=0)
    assert compilation._blocks(model) == list(model.blocks)
    levit = build(small_levit(), seed=0)
    names = {name for name, part in levit.named_modules() if part in compilation._blocks(levit)}
    assert len(names) == 3
    assert all(name.startswith("stages.") for name in names)


def small_levit() -> Any:
    from castling.model.check import run_config

    options = {
        "embed_dim": [8, 16, 24],
        "key_dim": 4,
        "num_heads": [1, 2, 3],
        "depth": [1, 1, 1],
    }
    model = {
        "backbone": "levit_128",
        "image_size": 32,
        "channels": 1,
        "options": options,
        "num_classes": 2,
        "blocks": "linear_angular",
    }
    return run_config({"model": model}).model
