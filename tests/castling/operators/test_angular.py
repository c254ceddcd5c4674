import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from oracle_comparison import (
    compare_with_oracle,
    heads_of,
    random_input,
    relative_error,
    values_and_gradients,
)
from torch import Tensor

from castling.config import BlockConfig
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules import angular
from castling.operators.modules.angular import AngularAttention, excess_similarity
from castling.operators.modules.linear_angular import LinearAngularAttention
from castling.operators.reference import angular as reference, linear_angular as linear_reference
from castling.operators.spec import LayerShape
from space.measure import measure_macs, measure_params


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer."""

    height: int
    width: int
    prefix: int = 0
    heads: int = 1
    size: int = 4
    kernel: int = 3
    form: str = "tokens"
    filters: str = "head"
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        return f"{tokens}-h{self.heads}x{self.size}-{self.form}{self.kernel}-{self.filters}"

    def layer(self) -> LayerShape:
        return LayerShape(
            block=BlockConfig(
                operator="angular",
                num_heads=self.heads,
                head_size=self.size,
                conv_kernel=self.kernel,
                conv_form=self.form,
                conv_filters=self.filters,
                mask=None,
            ),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=1, kernel=9, form="grid", filters="channel", prefix=1),
    Size(height=1, width=7, heads=3, size=1, kernel=15),
    Size(height=2, width=3, heads=3, size=5, bias=False),
    Size(height=3, width=2, heads=3, prefix=1, form="grid", embed=5),
    Size(height=5, width=3, heads=1, size=7, form="grid", filters="channel", kernel=5),
    Size(height=2, width=2, heads=3, prefix=1, filters="channel", kernel=1),
]


def oracle(module: AngularAttention, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definition, image by image and head by head."""
    block, weights = layer.block, dict(module.named_parameters())
    images = []
    for image in x:
        mixed = []
        for head, (q, k, v) in enumerate(heads_of(weights, layer, image)):
            y = torch.stack(
                [linear_reference.direction(row) for row in reference.angular(q, k, v)]
            )
            columns = [head * block.head_size + channel for channel in range(block.head_size)]
            filters = [head if block.conv_filters == "head" else column for column in columns]
            convolved = [
                oracle_convolution(weights["conv.weight"][row, 0], layer, values[:, None])
                for row, values in zip(filters, v.unbind(1), strict=True)
            ]
            mixed.append(y + torch.cat(convolved, dim=1))
        images.append(torch.cat(mixed, dim=1))
    return F.linear(torch.stack(images), weights["proj.weight"], weights["proj.bias"])


def oracle_convolution(taps: Tensor, layer: LayerShape, values: Tensor) -> Tensor:
    grid = layer.grid
    if layer.block.conv_form == "tokens":
        return linear_reference.token_convolution(values, taps[:, 0])
    return linear_reference.grid_convolution(
        values, taps, grid.height, grid.width, grid.num_prefix
    )


def built(layer: LayerShape, dtype: torch.dtype) -> AngularAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = AngularAttention(layer).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return module


compare = partial(compare_with_oracle, built, oracle)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float64, 1e-9)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float32_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float32, 1e-5)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bfloat16_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.bfloat16, 8 * torch.finfo(torch.bfloat16).eps)


def test_autocast_is_near_float32() -> None:
    layer = Size(height=4, width=3, heads=3, prefix=1).layer()
    module = built(layer, torch.float32)
    x = random_input(layer, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x)
    assert relative_error(output, module(x)) < 8 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_closed_forms_are_what_is_counted(size: Size) -> None:
    layer, spec = size.layer(), OPERATORS["angular"]
    module = spec.build(layer)
    sizes = (layer.grid.num_tokens, layer.embed_width)
    assert spec.macs(layer) == measure_macs(module, sizes, ["angular"])
    assert spec.params(layer) == measure_params(module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [0.0, 1e3])
def test_zero_and_large_tokens_give_numbers_never_nan(
    dtype: torch.dtype, magnitude: float
) -> None:
    layer = Size(height=2, width=3, heads=3, prefix=1).layer()
    module = built(layer, dtype)
    x = (random_input(layer, dtype) * magnitude).requires_grad_()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name


def first_order(cosine: Tensor) -> Tensor:
    return linear_reference.angular_similarity(cosine, linear=True) - 0.5


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_to_first_order_it_is_linear_angular_attention(
    monkeypatch: pytest.MonkeyPatch, size: Size
) -> None:
    layer = size.layer()
    module, linear = built(layer, torch.float64), LinearAngularAttention(layer).double()
    linear.load_state_dict(module.state_dict())
    x = random_input(layer, torch.float64).requires_grad_()
    exact = module(x)
    expected = linear(x)
    if layer.grid.num_tokens > 1:
        assert relative_error(exact, expected) > 1e-3
    monkeypatch.setattr(angular, "excess_similarity", first_order)
    got = values_and_gradients(module(x), x, module)
    wanted = values_and_gradients(expected, x, linear)
    assert got.keys() == wanted.keys()
    for name, tensor in got.items():
        assert relative_error(tensor, wanted[name]) < 1e-12, name


def test_the_oracle_to_first_order_is_that_of_linear_angular() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k, v = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        reference.angular(q, k, v, linear=True), linear_reference.linear_angular(q, k, v)
    )


@pytest.mark.parametrize(
    ("cosine", "similarity"),
    [
        (-1.0, 0.0),
        (-0.5, 1 / 3),
        (0.0, 0.5),
        (0.25, 0.580431),
        (0.5, 0.666667),
        (0.75, 0.769947),
        (0.9, 0.856434),
        (1.0, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_kernel_has_the_known_values(
    dtype: torch.dtype, cosine: float, similarity: float
) -> None:
    got = 0.5 + excess_similarity(torch.tensor(cosine, dtype=dtype))
    assert got.dtype == dtype
    assert float(got) == pytest.approx(similarity, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_kernel_is_exact_with_its_gradient_up_to_rounding_of_one(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    cosine = torch.tensor([-0.9, 0.0, 0.3, 0.999, 1.0 - 64 * eps], dtype=dtype).requires_grad_()
    similarity = excess_similarity(cosine)
    (gradient,) = torch.autograd.grad(similarity.sum(), cosine)
    exact = cosine.detach().double()
    torch.testing.assert_close(
        similarity.double(), 0.5 - exact.arccos() / math.pi, rtol=8 * eps, atol=8 * eps
    )
    slope = 1.0 / (math.pi * (1.0 - exact.square()).sqrt())
    torch.testing.assert_close(gradient.double(), slope, rtol=0.01, atol=0.0)
    torch.testing.assert_close(gradient[:4].double(), slope[:4], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_at_one_and_beyond_by_rounding_the_kernel_has_its_extreme_and_no_gradient(
    dtype: torch.dtype,
) -> None:
    eps = torch.finfo(dtype).eps
    cosine = torch.tensor([1.0 - eps, 1.0, 1.0 + 3 * eps], dtype=dtype)
    cosine = torch.cat([cosine, -cosine]).requires_grad_()
    similarity = excess_similarity(cosine)
    (gradient,) = torch.autograd.grad(similarity.sum(), cosine)
    assert similarity.tolist() == [0.5] * 3 + [-0.5] * 3
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_parallel_queries_and_keys_are_known_as_such(dtype: torch.dtype) -> None:
    """With q = c k everywhere |Sim - 1/2| is at its largest on the diagonal: exactly 1/2."""
    layer = Size(height=3, width=3, heads=3, size=5, bias=False).layer()
    module = built(layer, dtype)
    width = layer.block.attention_width
    with torch.no_grad():
        module.qkv.weight[width : 2 * width] = -2.0 * module.qkv.weight[:width]
    x = random_input(layer, dtype).requires_grad_()
    q, k, _ = module.qkv(x).unflatten(-1, (3, 3, 5)).permute(2, 0, 3, 1, 4)
    diagonal = excess_similarity(angular._cosines(q, k)).diagonal(dim1=-2, dim2=-1)
    assert (diagonal == -0.5).all()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_zero_rows_give_numbers_and_gradients_never_nan(dtype: torch.dtype) -> None:
    layer = Size(height=2, width=3, heads=3, prefix=1, bias=False).layer()
    module = built(layer, dtype)
    x = random_input(layer, dtype)
    x[:, 2] = 0.0
    x[1] = 0.0
    x.requires_grad_()
    tensors = values_and_gradients(module(x), x, module)
    for name, tensor in tensors.items():
        assert torch.isfinite(tensor).all(), name
    if dtype == torch.float64:
        exact = values_and_gradients(oracle(module, layer, x), x, module)
        for name, tensor in tensors.items():
            assert relative_error(tensor, exact[name]) < 1e-9, name


@pytest.mark.parametrize("autocast", [True, False])
def test_cosines_of_bfloat16_rows_are_taken_in_float32(autocast: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    q, k = torch.randn(2, 1, 2, 9, 8, generator=generator).bfloat16()
    exact = F.normalize(q.float(), dim=-1) @ F.normalize(k.float(), dim=-1).transpose(-2, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        cosines = angular._cosines(q, k)
    torch.testing.assert_close(cosines, exact, rtol=1e-6, atol=1e-6)


def test_it_ignores_the_mask_and_costs_as_much_as_softmax_and_the_convolution() -> None:
    layer = Size(height=7, width=7, heads=3, size=16, embed=48, kernel=9).layer()
    assert "mask" not in OPERATORS["angular"].uses
    extra = OPERATORS["angular"].macs(layer) - OPERATORS["softmax"].macs(layer)
    assert extra == 9 * 49 * 48
