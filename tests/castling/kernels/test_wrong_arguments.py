"""Whatever a kernel is called with: the right value, or one sentence before it touches memory."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import Tensor

from castling.errors import ConfigError
from castling.kernels import linear_angular as native
from castling.kernels.masked_attention import add_gradients, forward, masked_attention
from castling.operators.modules.linear_angular import linear_angular


BATCH, HEADS, SIZE, PREFIX, HEIGHT, WIDTH = 2, 2, 8, 1, 3, 2
TOKENS = PREFIX + HEIGHT * WIDTH
Arguments = Mapping[str, Any]


def right(threshold: float | None) -> dict[str, Any]:
    """Return arguments that fit one another, of every way to call the kernels."""
    torch.manual_seed(0)
    qkv, weight = torch.randn(BATCH, TOKENS, 3, HEADS, SIZE), torch.randn(HEADS, 1, 3, 3)
    limit = None if threshold is None else torch.tensor(threshold)
    grid = [PREFIX, HEIGHT, WIDTH]
    _, contexts, added, kept = torch.ops.castling.mix_packed(qkv, weight, grid, limit)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    rows = {"q": q, "k": k, "v": v, "own": torch.randn_like(v), "more": torch.randn_like(v)}
    gradient = torch.randn(BATCH, TOKENS, HEADS, SIZE)
    return rows | {
        "qkv": qkv, "weight": weight, "grid": grid, "threshold": limit, "contexts": contexts,
        "added": added, "kept": kept, "gradient": gradient,
        "gradient_by_head": gradient.transpose(1, 2),
    }  # fmt: skip


# The calls go beneath the functions whose shapes are checked at run time while testing.


def operator(x: Arguments) -> list[Tensor]:
    out, *_ = torch.ops.castling.mix_packed(x["qkv"], x["weight"], x["grid"], x["threshold"])
    return [out.transpose(1, 2)]


def operator_backward(x: Arguments) -> list[Tensor]:
    names = "qkv", "weight", "contexts", "added", "kept", "grid", "threshold", "gradient"
    return list(torch.ops.castling.mix_packed_backward(*(x[name] for name in names)))


def separate(x: Arguments) -> list[Tensor]:
    grid = native.ConvolutionGrid.of(x["grid"])
    given = (x[name] for name in ("q", "k", "v", "own", "more", "weight"))
    return [native._Mix.apply(*given, grid)]


def branch(x: Arguments) -> list[Tensor]:
    return [forward(x["q"], x["k"], x["v"], _limit(x))[0]]


def branch_backward(x: Arguments) -> list[Tensor]:
    _, kept = forward(x["q"], x["k"], x["v"], _limit(x))
    made = [torch.zeros(part.shape) for part in (x["q"], x["k"], x["v"])]
    add_gradients([x["q"], x["k"], x["v"], x["gradient_by_head"]], kept, _limit(x), made)
    return made


def _limit(x: Arguments) -> float:
    return 0.0 if x["threshold"] is None else x["threshold"].item()


def convolved(own: Tensor, weight: Tensor, grid: list[int]) -> Tensor:
    prefix, height, width = grid
    heads, size = own.shape[1], own.shape[3]
    image = own[:, :, prefix:].transpose(2, 3).flatten(1, 2).unflatten(2, (height, width))
    filters = weight.repeat_interleave(heads * size // weight.shape[0], dim=0)
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    local = F.conv2d(image, filters, padding=padding, groups=heads * size)
    on_grid = local.unflatten(1, (heads, size)).flatten(3).transpose(2, 3)
    return torch.cat([torch.zeros_like(own[:, :, :prefix]), on_grid], dim=2)


def masked(q: Tensor, k: Tensor, v: Tensor, threshold: float) -> Tensor:
    attention = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return attention.where(attention > threshold, 0.0) @ v


def packed_formula(x: Arguments, qkv: Tensor, weight: Tensor) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    added = None if x["threshold"] is None else masked(q, k, v, _limit(x))
    return linear_angular(q, k, v, v, added) + convolved(v, weight, x["grid"])


def operator_formula(x: Arguments) -> list[Tensor]:
    return [packed_formula(x, x["qkv"], x["weight"])]


def operator_backward_formula(x: Arguments) -> list[Tensor]:
    leaves = [x[name].detach().clone().requires_grad_() for name in ("qkv", "weight")]
    out = packed_formula(x, *leaves)
    return list(torch.autograd.grad(out, leaves, x["gradient"].transpose(1, 2)))


def separate_formula(x: Arguments) -> list[Tensor]:
    mixed = linear_angular(x["q"], x["k"], x["v"], x["own"], x["more"])
    return [mixed + convolved(x["own"], x["weight"], x["grid"])]


def branch_formula(x: Arguments) -> list[Tensor]:
    return [masked(x["q"], x["k"], x["v"], _limit(x))]


def branch_backward_formula(x: Arguments) -> list[Tensor]:
    leaves = [x[name].detach().clone().requires_grad_() for name in "qkv"]
    return list(torch.autograd.grad(masked(*leaves, _limit(x)), leaves, x["gradient_by_head"]))


Entry = Callable[[Arguments], list[Tensor]]
ENTRIES: Mapping[str, tuple[Entry, Entry, tuple[str, ...]]] = {
    "operator": (operator, operator_formula, ("qkv", "weight")),
    "operator backward": (
        operator_backward,
        operator_backward_formula,
        ("qkv", "weight", "contexts", "added", "kept", "gradient"),
    ),
    "separate": (separate, separate_formula, ("q", "k", "v", "own", "more", "weight")),
    "branch": (branch, branch_formula, ("q", "k", "v")),
    "branch backward": (
        branch_backward,
        branch_backward_formula,
        ("q", "k", "v", "gradient_by_head"),
    ),
}
"""By their names: the call, what it must return in float64, and the tensors that it takes."""

SAME_NUMBERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "columns first": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "spaced": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "backwards": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
    "sign beside": lambda x: torch._neg_view(-x),
}
OTHER_NUMBERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda x: x[:1].expand_as(x),
    "one row": lambda x: x[..., :1, :].expand_as(x),
    "one number": lambda x: x.flatten()[:1].expand(x.shape),
    "overlapping": lambda x: x.flatten().as_strided(x.shape, (1,) * x.ndim),
}
OTHER_KINDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "double": Tensor.double,
    "half": Tensor.half,
    "whole": Tensor.long,
    "complex": lambda x: x.to(torch.complex64),
    "sparse": Tensor.to_sparse,
    "meta": lambda x: x.to("meta"),
    "axis more": lambda x: x[None],
    "axis less": lambda x: x[0],
    "no axis": lambda x: x.flatten()[0],
}


@given(
    entry=st.sampled_from(sorted(ENTRIES)),
    threshold=st.sampled_from([None, 0.0, 2.0]),
    data=st.data(),
)
def test_memory_in_any_order_gives_the_right_value(
    entry: str, threshold: float | None, data: st.DataObject
) -> None:
    call, formula, names = ENTRIES[entry]
    x = right(threshold)
    for name in data.draw(st.sets(st.sampled_from(names)), label="names"):
        orders = SAME_NUMBERS
        if name not in {"contexts", "added", "kept", "qkv"} or entry == "operator":
            orders = {**orders, **OTHER_NUMBERS}  # of those the backward pass has kept more
        if x[name].numel():
            x[name] = orders[data.draw(st.sampled_from(sorted(orders)), label=name)](x[name])
    _assert_right(call, formula, x)


@given(
    entry=st.sampled_from(sorted(ENTRIES)),
    threshold=st.sampled_from([None, 0.0]),
    data=st.data(),
)
def test_other_sizes_are_refused_or_right(
    entry: str, threshold: float | None, data: st.DataObject
) -> None:
    call, formula, names = ENTRIES[entry]
    x = right(threshold)
    for name in data.draw(st.sets(st.sampled_from(names), min_size=1), label="names"):
        shape = list(x[name].shape)
        axis = data.draw(st.integers(0, len(shape) - 1), label="axis")
        shape[axis] = data.draw(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 300]), label=name)
        x[name] = torch.randn(shape)
    try:
        outcome = call(x)
    except ConfigError:
        return
    if entry != "operator backward":
        _assert_equal(outcome, formula(_wide(x)))


@given(
    entry=st.sampled_from(sorted(ENTRIES)),
    threshold=st.sampled_from([None, 0.0]),
    data=st.data(),
)
def test_other_kinds_are_refused(entry: str, threshold: float | None, data: st.DataObject) -> None:
    call, _, names = ENTRIES[entry]
    x = right(threshold)
    used = [name for name in names if threshold is not None or name not in {"added", "kept"}]
    name = data.draw(st.sampled_from(used), label="name")
    kind = data.draw(st.sampled_from(sorted(OTHER_KINDS)), label="kind")
    x[name] = OTHER_KINDS[kind](x[name])
    if kind in {"meta", "sparse"} and entry.startswith("operator"):
        with pytest.raises((ConfigError, NotImplementedError)):
            call(x)  # most often torch has no kernel for tensors of this kind
    else:
        with pytest.raises(ConfigError, match="must"):
            call(x)


@given(
    entry=st.sampled_from(["operator", "operator backward", "separate"]),
    grid=st.lists(st.integers(-9, 9) | st.sampled_from([2**31, -(2**31), 2**62]), max_size=4)
    | st.sampled_from([[0, 7, 1], [0, 1, 7], [7, 0, 1], [7, 0, 0], [1, 2, 3], [0, 2**62, 0]]),
)
def test_grids_that_are_not_the_tokens_are_refused(entry: str, grid: list[int]) -> None:
    call, formula, _ = ENTRIES[entry]
    x = right(None) | {"grid": grid}
    fits = len(grid) == 3 and min(grid) >= 0 and grid[2] and grid[0] + grid[1] * grid[2] == TOKENS
    if not fits:
        with pytest.raises(ConfigError, match="grid"):
            call(x)
    elif grid[1]:
        _assert_right(call, formula, x)
    else:  # no token is convolved; torch's convolution takes no empty images
        call(x)


@pytest.mark.parametrize("threshold", [-0.5, -1e-30, float("nan"), [0.1, 0.2], 1j])
def test_thresholds_that_are_none_are_refused(threshold: Any) -> None:
    x = right(0.1) | {"threshold": torch.tensor(threshold)}
    for call in (operator, operator_backward):
        with pytest.raises(ConfigError, match="threshold"):
            call(x)


def test_a_threshold_without_a_value_is_refused() -> None:
    x = right(0.1) | {"threshold": torch.tensor(0.1, device="meta")}
    for call in (operator, operator_backward):
        with pytest.raises(ConfigError, match="must be on one device"):
            call(x)


def test_sizes_without_a_kernel_are_refused() -> None:
    for size in (6, 260):
        q = torch.randn(1, 2, 3, size)
        with pytest.raises(ConfigError, match="multiples of 4"):
            masked_attention(q, q, q, 0.1)
        with pytest.raises(ConfigError, match="multiples of 4"):
            native.mix(
                q, q, q, q, None, torch.randn(2, 1, 3, 1), native.ConvolutionGrid.of([0, 3, 1])
            )


def test_gradients_are_written_in_rows_only() -> None:
    x = right(0.0)
    kept = forward(x["q"], x["k"], x["v"], 0.0)[1]
    inputs = [x["q"], x["k"], x["v"], x["gradient_by_head"]]
    for wrong in (
        torch.zeros(()).expand_as(x["q"]),
        torch.zeros(SIZE, 2, 7, 2).permute(1, 3, 2, 0),
    ):
        with pytest.raises(ConfigError, match="must"):
            add_gradients(inputs, kept, 0.0, [wrong, *(torch.zeros_like(x["q"]) for _ in "kv")])


def _wide(x: Arguments) -> dict[str, Any]:
    return {
        name: value.double() if isinstance(value, Tensor) else value for name, value in x.items()
    }


def _assert_right(call: Entry, formula: Entry, x: Arguments) -> None:
    _assert_equal(call(x), formula(_wide(x)))


def _assert_equal(outcome: list[Tensor], exact: list[Tensor]) -> None:
    for ours, theirs in zip(outcome, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)
