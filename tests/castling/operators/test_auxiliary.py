import copy

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from castling.config import MaskSchedule
from castling.operators.modules.auxiliary import AuxiliaryBranch, branches
from castling.operators.reference import linear_angular as reference


def inputs(tokens: int, size: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    q, k, v = torch.randn(3, 2, 2, tokens, size, generator=generator, dtype=torch.float64)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


@pytest.mark.parametrize("tokens", [1, 2, 5, 9])
@pytest.mark.parametrize("multiple", [0.0, 0.7, 1.0, 1.6])
def test_equals_the_literal_definition_in_values_and_gradients(
    tokens: int, multiple: float
) -> None:
    branch = AuxiliaryBranch(MaskSchedule(shape="constant", start_multiple=multiple), tokens)
    q, k, v = inputs(tokens)
    expected = torch.stack(
        [
            torch.stack(
                [
                    reference.masked_softmax(q[b, h], k[b, h], v[b, h], branch.threshold)
                    for h in range(2)
                ]
            )
            for b in range(2)
        ]
    )
    output = branch(q, k, v)
    torch.testing.assert_close(output, expected)
    if not expected.requires_grad:  # nothing survives
        assert not output.any()
        return
    probe = torch.arange(output.numel(), dtype=torch.float64).view_as(output).cos()
    got = torch.autograd.grad((output * probe).sum(), (q, k, v))
    want = torch.autograd.grad((expected * probe).sum(), (q, k, v), materialize_grads=True)
    for mine, literal in zip(got, want, strict=True):
        torch.testing.assert_close(mine, literal)


@given(
    progress=st.floats(0.0, 1.0),
    tokens=st.integers(1, 30),
    shape=st.sampled_from(["linear", "cosine", "step"]),
)
def test_a_threshold_of_one_is_exactly_empty(progress: float, tokens: int, shape: str) -> None:
    branch = AuxiliaryBranch(MaskSchedule(shape=shape, start_multiple=0.5), tokens).eval()
    branch.set_progress(progress)
    q, k, v = inputs(tokens)
    # One entry takes all of the mass: the largest value a softmax can have, 1.
    output = branch(q.detach() * 1e4, k.detach(), v.detach())
    if branch.is_empty:
        assert branch.density == 0.0
        assert not output.any()
    else:
        assert branch.density > 0.0


def test_density_counts_the_surviving_entries_in_eval_only() -> None:
    branch = AuxiliaryBranch(MaskSchedule(shape="constant", start_multiple=1.0), 4)
    uniform = torch.zeros(1, 1, 4, 2)
    branch.threshold = 0.2
    branch.train()(uniform, uniform, uniform)
    assert branch.density == 0.0
    branch.eval()(uniform, uniform, uniform)
    assert branch.density == 1.0
    branch.threshold = 0.25  # exactly uniform attention does not exceed it
    branch(uniform, uniform, uniform)
    assert branch.density == 0.0


def test_the_surviving_mass_is_kept_only_where_the_loss_needs_it() -> None:
    q, k, v = inputs(6)
    free = AuxiliaryBranch(MaskSchedule(start_multiple=0.0), 6)
    free(q, k, v)
    assert free.surviving_mass is None
    weighed = AuxiliaryBranch(MaskSchedule(start_multiple=0.0, l1_weight=0.1), 6)
    weighed(q, k, v)
    assert weighed.surviving_mass is not None
    assert weighed.surviving_mass.item() == pytest.approx(1.0)
    (gradient,) = torch.autograd.grad(weighed.surviving_mass, q)
    assert torch.isfinite(gradient).all()
    weighed.set_progress(0.5)
    weighed(q, k, v)
    assert weighed.surviving_mass.item() < 0.9


def test_progress_travels_with_the_state_and_with_copies() -> None:
    branch = AuxiliaryBranch(MaskSchedule(), 10)
    branch.set_progress(0.3)
    other = AuxiliaryBranch(MaskSchedule(), 10)
    assert other.threshold != branch.threshold
    other.load_state_dict(branch.state_dict())
    assert other.threshold == branch.threshold
    copied = copy.deepcopy(branch)
    copied.set_progress(1.0)
    assert copied.is_empty
    assert not branch.is_empty
    assert branch.progress.item() == 0.3


def test_branches_are_found_in_the_order_of_the_layers() -> None:
    first, second = (AuxiliaryBranch(MaskSchedule(), 4) for _ in range(2))
    model = nn.Sequential(nn.Linear(2, 2), first, nn.Sequential(second))
    assert branches(model) == [first, second]


@pytest.mark.parametrize("cast", ["float", "half", "bfloat16", "double", "cpu", "requires_grad_"])
def test_how_far_a_schedule_has_come_outlives_every_cast(cast: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), AuxiliaryBranch(MaskSchedule(), 4))
    [branch] = branches(model)
    branch.set_progress(0.3)
    getattr(model, cast)()
    assert branch.progress.dtype == torch.float64
    assert branch.progress.item() == 0.3
    assert branch.threshold == MaskSchedule().threshold(0.3, 4)
    state = model.to(torch.bfloat16).to("meta").to_empty(device="cpu").state_dict()
    assert state["1.progress"].dtype == torch.float64
