import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from attention import Goal
from memory import cuda_autocast, saved_bytes
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from castling.config import BlockConfig, MaskSchedule
from castling.kernels import flex, paths
from castling.operators.modules.auxiliary import AuxiliaryBranch
from castling.operators.modules.linear_angular import (
    LinearAngularAttention,
    normalize_rows,
)
from castling.operators.spec import LayerShape, TokenGrid


LIVING_BRANCH = Path(__file__).with_name("living_branch.py")
SCHEDULES = [
    MaskSchedule(shape=shape, start_multiple=1.1, l1_weight=weight)
    for shape, weight in (("constant", 0.0), ("linear", 0.1), ("cosine", 0.0), ("step", 0.1))
]


def _inputs(queries: int, keys: int) -> list[Tensor]:
    torch.manual_seed(0)
    sizes = ((queries, 16), (keys, 16), (keys, 20))
    return [2.0 * torch.randn(2, 2, *size) for size in sizes]


def _results(branch: AuxiliaryBranch, inputs: list[Tensor], path: str) -> list[Tensor]:
    """Return S v, the mass if the loss needs it, and the gradients of both."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    with paths.forced(branch=path):
        mixed = branch.train()(*inputs)
    results = [mixed]
    loss = (mixed * torch.arange(mixed.numel(), dtype=mixed.dtype).view_as(mixed).cos()).sum()
    if branch.surviving_mass is not None:
        results.append(branch.surviving_mass)
        loss = loss + 30.0 * branch.surviving_mass
    return [*results, *torch.autograd.grad(loss, inputs)]


def _compare(branch: AuxiliaryBranch, inputs: list[Tensor], path: str) -> None:
    exact = _results(branch, [x.double() for x in inputs], "maps")
    for ours, right in zip(_results(branch, inputs, path), exact, strict=True):
        assert (ours - right).norm() <= 5e-6 * right.norm()
    with paths.forced(branch=path), torch.no_grad():
        branch.eval()(*inputs)
        density = branch.density
    with paths.forced(branch="maps"), torch.no_grad():
        branch(*inputs)
    assert float(density) == pytest.approx(float(branch.density), rel=1e-6)
    assert isinstance(density, Tensor)


@pytest.fixture
def on_the_reference_path() -> Iterator[None]:
    """FlexAttention's definition runs on the CPU; a check of its own forbids gradients."""
    module = import_module("torch.nn.attention.flex_attention")
    traced = torch.compile(flex.passes, backend="aot_eager", fullgraph=True)
    with (
        patch.object(module, "_validate_device", lambda *_: None),
        patch.object(flex, "compiled_passes", lambda: traced),
    ):
        yield


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.shape)
def test_flex_attention_is_the_branch(schedule: MaskSchedule, on_the_reference_path: None) -> None:
    branch = AuxiliaryBranch(schedule, 50)
    branch.set_progress(0.2)
    _compare(branch, _inputs(33, 50), "flex")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.shape)
def test_chunks_are_the_branch(schedule: MaskSchedule) -> None:
    branch = AuxiliaryBranch(schedule, 50)
    branch.set_progress(0.2)
    for queries in (1, 128, 300):
        _compare(branch, _inputs(queries, 50), "chunks")


def test_chunks_take_a_bias_with_its_gradient() -> None:
    q, k, v = _inputs(200, 40)
    results = []
    for path in ("maps", "chunks"):
        bias = torch.linspace(-1.0, 1.0, 2 * 200 * 40).view(1, 2, 200, 40).requires_grad_()
        branch = AuxiliaryBranch(MaskSchedule(shape="constant"), 40)
        with paths.forced(branch=path):
            mixed = branch(q, k, v, bias)
        results.append([mixed, *torch.autograd.grad(mixed.square().sum(), bias)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", ["torch", "triton"])
@pytest.mark.parametrize("branch", ["flex", "chunks"])
def test_the_branch_keeps_a_fifth_of_the_layer_at_most(layer: str, branch: str) -> None:
    goal = Goal(height=16, width=16, batch=2, softmax=0.0, released=0.0)
    plain = saved_bytes(goal, 2, layer=layer, branch=None)
    assert plain <= saved_bytes(goal, 2, layer=layer, branch=branch) <= 1.2 * plain
    assert saved_bytes(goal, 2, layer=layer, branch="maps") > 2 * plain


class _Count(TorchDispatchMode):
    """Counts operators that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        passing = func.is_view or func.name() in {"prim::device", "aten::_unsafe_view"}
        self.operators += not passing
        return func(*args, **(kwargs or {}))


def _operators(*, rms: bool, layer: str = "torch") -> int:
    config = BlockConfig(operator="linear_angular", num_heads=3, head_size=64, mask=None)
    shape = LayerShape(block=config, embed_width=192, grid=TokenGrid(height=14, width=14))
    with FakeTensorMode(), torch.device("cuda"), paths.forced(layer=layer, rms=rms):
        attention, x = LinearAngularAttention(shape), torch.empty(2, 196, 192)
        with cuda_autocast(), torch.no_grad(), _Count() as count:
            attention(x)
    return count.operators


def test_a_layer_is_few_operators_on_a_gpu() -> None:
    counts = (_operators(rms=False), _operators(rms=True), _operators(rms=True, layer="triton"))
    assert counts == (49, 24, 8)  # fused softmax attention: 8


def test_rms_norm_normalises_rows() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 40, 24) * torch.logspace(-8, 8, 40)[:, None]
    x[1, 3] = 0.0
    probe = torch.randn_like(x)
    results = []
    for rms in (False, True):
        given = x.clone().requires_grad_()
        with paths.forced(rms=rms):
            out = normalize_rows(given)
        results.append([out, *torch.autograd.grad(out, given, probe)])
    for ours, right in zip(results[1], results[0], strict=True):
        assert not ours[1, 3].any()
        assert ((ours - right).norm(dim=-1) <= 1e-5 * right.norm(dim=-1)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_is_the_branch_on_a_gpu(dtype: torch.dtype) -> None:
    q, k, v = (x.cuda().to(dtype) for x in _inputs(300, 257))
    made = flex.attend(q, k, v, 0.01, count=True)
    mixed, mass, survivors = flex.by_maps(q.double(), k.double(), v.double(), None, 0.01)
    bound = 1e-2 if dtype == torch.bfloat16 else 2e-3  # float32 may run as TF32
    for ours, right in ((made.mixed, mixed), (made.mass, mass), (made.survivors, survivors)):
        assert (ours - right).norm() <= bound * right.norm()


@pytest.mark.gpu
def test_the_branch_needs_no_maps_on_a_gpu() -> None:
    peaks = []
    for tokens in (2048, 8192):
        q, k, v = (torch.randn(1, 3, tokens, 64, device="cuda", requires_grad=True) for _ in "qkv")
        flex.attend(q, k, v, 0.01, count=False).mixed.sum().backward()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        flex.attend(q, k, v, 0.01, count=False).mixed.sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 5 * peaks[0]


def test_what_is_taken_is_said() -> None:
    q = k = v = torch.empty(2, 3, 300, 64)
    weight, qkv = torch.empty(3, 1, 9, 1), torch.empty(2, 300, 3, 3, 64)
    assert paths.branch_choice(q, k, v, None, needs_mass=True).path == "maps"
    assert "CUDA" in paths.layer_choice(qkv, weight).reason
    for x, path in ((q.to("meta"), "maps"),):
        assert paths.branch_choice(x, x, x, None, needs_mass=False).path == path


def test_an_evaluation_with_a_living_branch_is_one_graph() -> None:
    # In a process of its own: checks of shapes, which wrap every function here, end a graph.
    done = subprocess.run(
        [sys.executable, str(LIVING_BRANCH)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    densities = [[float(value) for value in line.split()] for line in done.stdout.splitlines()]
    assert len(densities) == 2
    for compiled, eager in densities:
        assert compiled == pytest.approx(eager, abs=0.01)
        assert 0.0 < eager < 1.0
