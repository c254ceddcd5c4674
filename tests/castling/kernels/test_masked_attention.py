from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import Tensor

from castling.config import MaskSchedule
from castling.kernels import masked_attention as native
from castling.operators.modules.auxiliary import AuxiliaryBranch


def _rows(batch: int, tokens: int, heads: int, size: int) -> Tensor:
    """Return values as projections leave them: heads side by side."""
    return torch.randn(batch, tokens, heads, size).transpose(1, 2)


def _attention(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


def _apart(attention: Tensor, threshold: float) -> float:
    """Return a threshold nearby that no entry is too close to for float32 to tell."""
    ordered = attention.flatten().sort().values
    at = int(torch.searchsorted(ordered, threshold))
    near = ordered[max(at - 8, 0) : at + 8]
    if len(near) < 2:
        return threshold
    widest = int(near.diff().argmax())
    return float(near[widest : widest + 2].mean())


@given(
    sizes=st.tuples(*[st.sampled_from([4, 8, 12, 16, 20, 32, 64, 96])] * 2),
    heads=st.integers(1, 3),
    queries=st.integers(1, 150),
    keys=st.integers(1, 150),
    sharpness=st.sampled_from([0.0, 1.0, 3.0, 10.0]),
    multiple=st.sampled_from([0.0, 0.5, 1.0, 4.0, 40.0]),
    seed=st.integers(0, 9),
)
def test_values_and_gradients_are_the_formulas(  # noqa: PLR0917
    sizes: tuple[int, int],
    heads: int,
    queries: int,
    keys: int,
    sharpness: float,
    multiple: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    key, value = sizes
    parts = [_rows(2, queries, heads, key), _rows(2, keys, heads, key)]
    given = [*(part * sharpness**0.5 for part in parts), _rows(2, keys, heads, value)]
    gradient = _rows(2, queries, heads, value)
    wide = [part.double() for part in given]
    threshold = min(multiple / keys, 1.0)
    if sharpness > 0.0:
        threshold = _apart(_attention(*wide[:2]), threshold)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attention = _attention(q, k)
        return (attention * (attention.float() > threshold)) @ v

    def run(function: object, parts: list[Tensor]) -> list[Tensor]:
        leaves = [part.detach().requires_grad_() for part in parts]
        out = function(*leaves)  # type: ignore[operator]
        return [out, *torch.autograd.grad(out, leaves, gradient.to(out.dtype))]

    kernel = run(lambda q, k, v: native.masked_attention(q, k, v, threshold)[0], given)
    for name, ours, exact in zip(["out", "q", "k", "v"], kernel, run(formula, wide), strict=True):
        largest = float(exact.detach().abs().max().clamp_min(1.0))
        assert (ours.double() - exact).detach().abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize("threshold", [0.0, 0.02])
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_errors_of_large_inputs_are_no_larger_than_torchs(threshold: float, scale: float) -> None:
    """Where softmax is saturated its gradient is a difference of equal numbers."""
    torch.manual_seed(0)
    given = [_rows(2, 50, 3, 16) * scale for _ in range(3)]
    gradient = _rows(2, 50, 3, 16)

    def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.threshold(_attention(q, k), threshold, 0.0) @ v

    def by_kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return native.masked_attention(q, k, v, threshold)[0]

    def gradients(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).detach().requires_grad_() for x in given]
        made = torch.autograd.grad(function(*leaves), leaves, gradient.to(dtype))
        return [each.double() for each in made]

    exact = gradients(by_torch, torch.float64)
    ours, theirs = (gradients(each, torch.float32) for each in (by_kernel, by_torch))
    for name, our, their, right in zip("qkv", ours, theirs, exact, strict=True):
        assert (our - right).abs().max() <= 4.0 * (their - right).abs().max() + 1e-6, name


def test_queries_without_survivors_give_exactly_nothing() -> None:
    torch.manual_seed(0)
    q, k, v = (_rows(2, 70, 2, 8) for _ in range(3))
    q *= 0.1
    q[:, :, 9] *= 1000.0  # it alone attends to few keys
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, _ = native.masked_attention(*leaves, 0.5)
    dq, dk, _ = torch.autograd.grad(out.square().sum(), leaves)
    others = [token for token in range(70) if token != 9]
    assert not out[:, :, others].any()
    assert not dq[:, :, others].any()
    assert out[:, :, 9].any()
    assert dk.any()


@pytest.mark.parametrize("shape", [(0, 5, 5), (2, 0, 5)])
def test_nothing_in_nothing_out(shape: tuple[int, int, int]) -> None:
    batch, queries, keys = shape
    q, k, v = _rows(batch, queries, 2, 8), _rows(batch, keys, 2, 8), _rows(batch, keys, 2, 8)
    q.requires_grad_()
    out, _ = native.masked_attention(q, k, v, 0.1)
    assert out.shape == (batch, 2, queries, 8)
    out.sum().backward()
    assert q.grad is not None
    assert not q.grad.any()


def test_threads_change_nothing() -> None:
    torch.manual_seed(0)
    q, k, v = (_rows(4, 200, 3, 64).requires_grad_() for _ in range(3))

    def run() -> list[Tensor]:
        out, _ = native.masked_attention(q, k, v, 0.01)
        return [out, *torch.autograd.grad(out.square().sum(), [q, k, v])]

    alone = run()
    try:
        torch.set_num_threads(2)
        for ours, other in zip(run(), alone, strict=True):
            assert torch.equal(ours, other)
    finally:
        torch.set_num_threads(1)


def test_broken_numbers_stay_broken() -> None:
    q, k, v = (_rows(1, 6, 1, 8) for _ in range(3))
    v[0, 0, 3] = torch.nan
    assert native.masked_attention(q, k, v, 0.0)[0].isnan().any()
    k[0, 0, 2, 1] = torch.nan
    assert native.masked_attention(q, k, torch.ones_like(v), 0.0)[0].isnan().any()


def test_survivors_are_counted() -> None:
    torch.manual_seed(0)
    q, k, v = (_rows(2, 90, 3, 16) for _ in range(3))
    threshold = _apart(_attention(q.double(), k.double()), 0.9 / 90)
    _, survivors = native.masked_attention(q, k, v, threshold)
    assert torch.equal(survivors, (_attention(q, k) > threshold).float().sum(-1))


def test_a_branch_goes_by_the_kernel_unless_its_loss_wants_the_map() -> None:
    torch.manual_seed(0)
    q, k, v = (_rows(2, 30, 2, 8) for _ in range(3))
    free, weighed = (
        AuxiliaryBranch(
            MaskSchedule(shape="constant", start_multiple=0.7, l1_weight=weight), 30
        ).train()
        for weight in (0.0, 0.1)
    )
    by_kernel, _ = native.masked_attention(q, k, v, free.threshold)
    assert torch.equal(free(q, k, v), by_kernel)
    torch.testing.assert_close(weighed(q, k, v), by_kernel)
    assert weighed.surviving_mass is not None
    assert free.surviving_mass is None
    assert torch.equal(free.eval()(q, k, v), by_kernel)
    with_map = AuxiliaryBranch(free.schedule, 30).double().eval()
    with_map(*(x.double() for x in (q, k, v)))
    assert free.density == pytest.approx(with_map.density)
