from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from castling.config import BlockConfig, MaskSchedule, RunConfig
from castling.model.build import build
from castling.operators.modules.auxiliary import branches
from castling.training.callbacks import Checkpoints, Curve, Report
from castling.training.data import TrainingData
from castling.training.execution import SingleProcess
from castling.training.metrics import EpochMetrics
from castling.training.regularisers import GateCost, Masks
from castling.training.step import LossModule
from castling.training.trainer import Callback, Trainer


class Noting(Callback):
    """Notes what it is called for."""

    def __init__(self, calls: list[str], name: str) -> None:
        self.calls, self.name = calls, name

    def on_start(self, _: Trainer) -> None:
        self.calls.append(f"{self.name} starts")

    def on_epoch(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        self.calls.append(f"{self.name} {metrics.epoch}{' ends' if trainer.is_over else ''}")


def test_callbacks_are_called_in_order_and_know_of_a_stop_before_them(
    tiny: RunConfig, digits: TrainingData
) -> None:
    calls: list[str] = []
    stop = Report(lambda metrics: metrics.epoch < 2)
    trainer = Trainer(tiny, digits, SingleProcess("cpu"))
    trainer.fit([Noting(calls, "first"), stop, Noting(calls, "second")])
    assert calls == [
        *("first starts", "second starts"),
        *("first 1", "second 1", "first 2", "second 2 ends"),
    ]


class SecondOfTwo(SingleProcess):
    """A process that writes nothing; the other one's values are twice its own."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.is_writer = False
        self.wrapped: list[nn.Module] = []

    def wrap(self, module: nn.Module) -> nn.Module:
        self.wrapped.append(module)
        return module

    def mean(self, values: Mapping[str, float], _: int) -> dict[str, float]:
        return {name: 1.5 * value for name, value in values.items()}


def test_the_execution_wraps_the_loss_averages_metrics_and_decides_who_writes(
    tiny: RunConfig, digits: TrainingData, tmp_path: Path
) -> None:
    run = tiny.replace(train=tiny.train.replace(epochs=1))
    alone, second = (
        Trainer(run, digits, place) for place in (SingleProcess("cpu"), SecondOfTwo())
    )
    checkpoint = tmp_path / "checkpoint.safetensors"
    for trainer in (second, alone):
        trainer.fit([Curve(tmp_path / "curve.jsonl"), Checkpoints(checkpoint, 1.0, None)])
        assert len(list(tmp_path.iterdir())) == (0 if trainer is second else 2)
    assert isinstance(second.execution, SecondOfTwo)
    [wrapped] = second.execution.wrapped
    assert isinstance(wrapped, LossModule)
    assert wrapped.model is second.model
    assert second.metrics is not None
    assert alone.metrics is not None
    for name in ("loss", "top1", "top1_branch"):
        assert second.metrics.metrics[name] == pytest.approx(1.5 * alone.metrics.metrics[name])


def images() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_masks_weigh_the_mass_of_living_branches_only(tiny: RunConfig) -> None:
    mask = MaskSchedule(end=0.5, l1_weight=0.1)
    blocks = tuple(block.replace(mask=mask) for block in tiny.model.blocks)
    model = build(tiny.model.replace(blocks=blocks), seed=0).train()
    masks = Masks(model)
    assert masks.penalty() is None  # before any forward pass
    model(images())
    penalty = masks.penalty()
    assert penalty is not None
    mass = [
        branch.surviving_mass for branch in branches(model) if branch.surviving_mass is not None
    ]
    assert len(mass) == 2
    assert penalty.item() == pytest.approx(0.1 * sum(part.item() for part in mass))
    assert not masks.are_empty
    masks.set_progress(0.5)
    assert masks.are_empty
    assert masks.penalty() is None


def test_gates_are_pushed_to_their_target(tiny: RunConfig) -> None:
    assert GateCost(build(tiny.model, seed=0), tiny.train).penalty() is None
    gated = BlockConfig(operator="spvit_gated", num_heads=2, head_size=8, mlp="shrinking")
    model = build(tiny.model.replace(blocks=(gated,)), seed=0)
    near, far = (
        GateCost(model, tiny.train.replace(gate_target=target, gate_weight=3.0)).penalty()
        for target in (0.8, 0.1)
    )
    assert near is not None
    assert far is not None
    assert far > near > 0.0
    far.backward()
    assert any(gate.grad is not None for name, gate in model.named_parameters() if "gate" in name)
