import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from castling.config import LayerChoice
from castling.kernels import linear_angular as native
from castling.kernels.masked_attention import masked_attention
from castling.operators.modules.linear_angular import TokenConvolution, linear_angular
from castling.operators.spec import TokenGrid


def _conv(choice: LayerChoice, grid: TokenGrid, heads: int, size: int) -> TokenConvolution:
    torch.manual_seed(1)
    return TokenConvolution(choice, grid, heads, size)


def _formula(
    q: Tensor, k: Tensor, v: Tensor, own: Tensor, added: Tensor | None, conv: TokenConvolution
) -> Tensor:
    local = conv(own.transpose(1, 2).flatten(2)).unflatten(2, (-1, own.shape[-1]))
    return linear_angular(q, k, v, own, added) + local.transpose(1, 2)


@given(
    sizes=st.tuples(*[st.sampled_from([4, 8, 12, 16, 20, 32, 64, 96])] * 2),
    heads=st.integers(1, 3),
    grid=st.builds(
        TokenGrid,
        height=st.integers(1, 5),
        width=st.integers(1, 40),
        num_prefix=st.integers(0, 2),
    ),
    choice=st.builds(
        LayerChoice,
        operator=st.just("linear_angular"),
        conv_kernel=st.sampled_from([1, 3, 5, 9]),
        conv_form=st.sampled_from(["tokens", "grid"]),
        conv_filters=st.sampled_from(["head", "channel"]),
    ),
    more_keys=st.integers(0, 3),
    has_branch=st.booleans(),
    seed=st.integers(0, 9),
)
def test_values_and_gradients_are_the_formulas(  # noqa: PLR0917
    sizes: tuple[int, int],
    heads: int,
    grid: TokenGrid,
    choice: LayerChoice,
    more_keys: int,
    has_branch: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    (key, value), tokens = sizes, grid.num_tokens
    conv = _conv(choice, grid, heads, value)
    keys = tokens + more_keys

    def rows(count: int, size: int) -> Tensor:  # as projections leave them: heads side by side
        return torch.randn(2, count, heads, size).transpose(1, 2)

    given = {"q": rows(tokens, key), "k": rows(keys, key), "v": rows(keys, value)}
    given["q"][0, 0, 0] = given["k"][0, 0, 0] = 0.0
    if more_keys:
        given["own"] = rows(tokens, value)
    if has_branch:
        given["added"] = rows(tokens, value)

    def run(dtype: torch.dtype, by_kernel: bool) -> list[Tensor]:
        module = _conv(choice, grid, heads, value).to(dtype)
        x = {name: part.to(dtype).detach().requires_grad_() for name, part in given.items()}
        own, added = x.get("own", x["v"]), x.get("added")
        if by_kernel:
            assert native.serves(*x.values())
            reach = module.reach(tokens)
            out = native.mix(x["q"], x["k"], x["v"], own, added, module.weight, reach)
        else:
            out = _formula(x["q"], x["k"], x["v"], own, added, module)
        torch.manual_seed(seed)
        gradient = torch.randn(out.shape).to(dtype)
        return [out, *torch.autograd.grad(out, [*x.values(), module.weight], gradient)]

    names = ["out", *given, "weight"]
    kernel, formula = run(torch.float32, by_kernel=True), run(torch.float64, by_kernel=False)
    for name, ours, exact in zip(names, kernel, formula, strict=True):
        largest = float(exact.detach().abs().max().clamp_min(1.0))
        assert (ours.double() - exact).detach().abs().max() <= 4e-6 * largest, name
    assert conv.kernel == choice.conv_kernel


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
def test_packed_is_separate(threshold: float | None) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 3, 2, 16, requires_grad=True)
    weight = torch.randn(2, 1, 3, 1, requires_grad=True)
    grid = native.ConvolutionGrid(prefix=0, height=7, width=1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    packed, survivors = native.mix_packed(qkv, weight, grid, threshold)
    added = None
    if threshold is not None:
        added, others = masked_attention(q, k, v, threshold)
        assert survivors is not None
        assert torch.equal(survivors, others)
    separate = native.mix(q, k, v, v, added, weight, grid)
    assert torch.equal(packed.transpose(1, 2), separate)
    for ours, other in zip(  # the gradient of a sum is one number for all, without rows in memory
        torch.autograd.grad(packed.sum(), [qkv, weight]),
        torch.autograd.grad(separate.sum(), [qkv, weight]),
        strict=True,
    ):
        torch.testing.assert_close(ours, other)


def test_no_images_are_no_images() -> None:
    grid = native.ConvolutionGrid(prefix=0, height=5, width=1)
    mixed, _ = native.mix_packed(torch.randn(0, 5, 3, 2, 8), torch.randn(2, 1, 3, 1), grid, 0.1)
    assert mixed.shape == (0, 5, 2, 8)


def test_threads_change_nothing() -> None:
    torch.manual_seed(0)
    qkv, weight = torch.randn(4, 300, 3, 3, 64), torch.randn(3, 1, 9, 1)
    grid = native.ConvolutionGrid(prefix=0, height=300, width=1)
    alone, _ = native.mix_packed(qkv, weight, grid)
    try:
        torch.set_num_threads(2)
        assert torch.equal(native.mix_packed(qkv, weight, grid)[0], alone)
    finally:
        torch.set_num_threads(1)


def test_what_the_kernel_cannot_take_is_left_to_torch() -> None:
    fitting = torch.randn(1, 2, 3, 8)
    assert native.serves(fitting, fitting, fitting, None)
    assert not native.serves(fitting, fitting, fitting.double())
    assert not native.serves(fitting, fitting, fitting.bfloat16())
    assert not native.serves(*[torch.randn(1, 2, 3, 6)] * 3)
    assert not native.serves(*[fitting.to("meta")] * 3)


def test_what_counts_operations_sees_torchs_own() -> None:
    fitting = torch.randn(1, 2, 3, 8)
    with FlopCounterMode(display=False):
        assert not native.serves(fitting, fitting, fitting)

    def mapped(x: Tensor) -> Tensor:
        assert not native.serves(x, x, x)
        return x + 1.0

    torch.func.vmap(mapped)(fitting)
