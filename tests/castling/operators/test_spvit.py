from dataclasses import dataclass

import pytest
import torch
from oracle_comparison import values_and_gradients
from torch import Tensor

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.build import build as build_model
from castling.model.castle import castle
from castling.model.check import check, check_layer
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.spvit import BottleneckConvolution
from castling.operators.reference import spvit as reference
from castling.operators.spec import LayerShape
from space.measure import measure_macs


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer."""

    kernel: int
    height: int
    width: int
    prefix: int = 0
    heads: int = 1
    size: int = 4
    embed: int = 6
    alpha: float = 0.01
    batch: int = 3
    spread: float = 1.0
    """Of the scores, in multiples of alpha."""

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        return f"conv{self.kernel}-{tokens}-h{self.heads}x{self.size}-alpha{self.alpha}"

    def layer(self) -> LayerShape:
        block = BlockConfig(
            operator=f"spvit_conv{self.kernel}",
            num_heads=self.heads,
            head_size=self.size,
            options={"alpha": self.alpha, "bypass": bool(self.prefix)},
        )
        return LayerShape(
            block=block,
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
        )


AWKWARD = [
    Size(kernel=kernel, **size)
    for kernel in (1, 3)
    for size in (
        {"height": 1, "width": 1, "batch": 7},
        {"height": 1, "width": 1, "prefix": 1, "heads": 3, "batch": 7},
        {"height": 1, "width": 5, "heads": 3, "size": 1},
        {"height": 2, "width": 3, "heads": 3, "prefix": 1, "embed": 1},
        {"height": 5, "width": 2, "heads": 1, "size": 5},
        {"height": 3, "width": 4, "heads": 3, "size": 7, "alpha": 1.0, "embed": 5},
        {"height": 4, "width": 3, "heads": 3, "prefix": 1, "spread": 4.0},
    )
]


def built(size: Size, dtype: torch.dtype) -> BottleneckConvolution:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = BottleneckConvolution(size.layer(), size.kernel)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
        torch.nn.init.normal_(module.scores, mean=1.0, std=size.alpha * size.spread)
        torch.nn.init.normal_(module.norm.running_mean)
        torch.nn.init.uniform_(module.norm.running_var, 0.5, 2.0)
    return module.to(dtype)


def random_input(size: Size, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    shape = (size.batch, size.layer().grid.num_tokens, size.embed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def oracle(module: BottleneckConvolution, size: Size, x: Tensor) -> Tensor:
    """Compute the layer from the literal definitions; batch norm as the module's mode wants."""
    heads = [slice(h * size.size, (h + 1) * size.size) for h in range(size.heads)]
    inward = [module.v.weight[head] for head in heads]
    outward = [module.proj.weight[:, head] for head in heads]
    columns = [module.scores[:, offset] for offset in range(size.kernel**2)]
    kernels = [reference.mix(inward, scores, size.alpha) for scores in columns]
    back = torch.stack([reference.mix(outward, scores, size.alpha) for scores in columns]).sum(0)
    grids = x[:, size.prefix :].reshape(len(x), size.height, size.width, size.embed)
    hidden = torch.stack([reference.convolve(grid, kernels, size.kernel) for grid in grids])
    norm = module.norm
    statistics = None if module.training else (norm.running_mean, norm.running_var)
    hidden = reference.batch_norm(hidden, statistics, norm.weight, norm.bias).clamp_min(0.0)
    y = torch.stack([torch.stack([back @ row for row in image]) for image in hidden])
    return torch.cat([x[:, : size.prefix], y + module.proj.bias], dim=1)


def compare(size: Size, dtype: torch.dtype, tolerance: float, *, training: bool) -> None:
    """Compare the module in `dtype` with the oracle in float64 on the same rounded numbers.

    Scores have a gradient 1 / alpha times as large as that of their shares: differences are
    measured against it.
    """
    module = built(size, dtype).train(training)
    x = random_input(size, dtype).requires_grad_()
    exact_module = built(size, dtype).double().train(training)
    exact_x = x.detach().double().requires_grad_()
    expected = values_and_gradients(oracle(exact_module, size, exact_x), exact_x, exact_module)
    got = values_and_gradients(module(x), x, module)
    for name, tensor in got.items():
        assert tensor.dtype == dtype, name
        assert torch.isfinite(tensor).all(), name
        scale = max(1.0, expected[name].abs().max().item())
        scale *= 1.0 / size.alpha if name == "scores" else 1.0
        assert (tensor.double() - expected[name]).abs().max() < tolerance * scale, name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size, training: bool) -> None:
    compare(size, torch.float64, 1e-9, training=training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float32_equals_the_oracle_in_values_and_gradients(size: Size, training: bool) -> None:
    compare(size, torch.float32, 1e-5, training=training)


@pytest.mark.parametrize("size", [size for size in AWKWARD if size.alpha == 1.0], ids=str)
def test_bfloat16_is_near_the_oracle(size: Size) -> None:
    module, x = built(size, torch.bfloat16).eval(), random_input(size, torch.bfloat16)
    exact = oracle(built(size, torch.bfloat16).double().eval(), size, x.double())
    error = (module(x).double() - exact).abs().max() / exact.abs().max()
    assert error < 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bfloat16_values_and_gradients_are_finite(size: Size) -> None:
    module = built(size, torch.bfloat16)
    x = random_input(size, torch.bfloat16).requires_grad_()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name


def test_the_comparison_notices_a_wrong_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.mix
    monkeypatch.setattr(
        reference, "mix", lambda parts, scores, alpha: right(parts, -scores, alpha)
    )
    with pytest.raises(AssertionError):
        compare(Size(kernel=3, height=3, width=4, heads=3), torch.float64, 1e-3, training=False)


def test_scores_choose_the_head_of_every_offset() -> None:
    size = Size(kernel=3, height=4, width=5, heads=9)
    module = built(size, torch.float64).eval()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # offset o takes head order[o] alone
        module.scores.copy_(torch.nn.functional.one_hot(order, 9).T)
    slices = module.v.weight.unflatten(0, (9, 4))
    kernel = slices[order].permute(1, 2, 0).unflatten(-1, (3, 3))
    x = random_input(size, torch.float64)
    hidden = torch.nn.functional.conv2d(
        x.unflatten(1, (4, 5)).permute(0, 3, 1, 2), kernel, padding=1
    )
    hidden = module.norm(hidden).relu().flatten(2).transpose(1, 2)
    expected = hidden @ module.proj.weight.unflatten(1, (9, 4)).sum(1).T + module.proj.bias
    torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-9)


def test_weights_are_those_of_an_attention_layer() -> None:
    layer = Size(kernel=3, height=4, width=4, heads=3).layer()
    attention = OPERATORS["softmax"].build(layer)
    convolution = BottleneckConvolution(layer, 3)
    width = layer.block.attention_width
    convolution.v.load_state_dict({"weight": attention.qkv.weight[2 * width :].detach()})
    convolution.proj.load_state_dict(attention.proj.state_dict())


def test_equal_scores_average_the_heads() -> None:
    size = Size(kernel=1, height=2, width=3, heads=3)
    module = built(size, torch.float64).eval()
    torch.nn.init.ones_(module.scores)
    x = random_input(size, torch.float64)
    hidden = module.norm((x @ module.v.weight.unflatten(0, (3, 4)).mean(0).T).mT.unsqueeze(-1))
    mean = module.proj.weight.unflatten(1, (3, 4)).mean(1)
    expected = hidden.squeeze(-1).mT.relu() @ mean.T + module.proj.bias
    torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kernel", "reach"), [(1, 0), (3, 1)])
def test_a_token_reaches_the_kernel_and_no_further(kernel: int, reach: int) -> None:
    size = Size(kernel=kernel, height=5, width=6, heads=3, batch=1)
    module = built(size, torch.float64).eval()
    torch.nn.init.constant_(module.norm.bias, 10.0)  # no bottleneck channel is cut off
    x = random_input(size, torch.float64)
    changed = x.clone()
    changed[:, 2 * 6 + 3] += 1.0
    touched = (module(changed) != module(x)).any(-1).reshape(5, 6)
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2 - reach : 3 + reach, 3 - reach : 4 + reach] = True
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_class_token_bypasses_where_it_is_let(kernel: int) -> None:
    size = Size(kernel=kernel, height=2, width=3, prefix=1, heads=3)
    x = random_input(size, torch.float32)
    assert torch.equal(built(size, torch.float32)(x)[:, 0], x[:, 0])
    block = BlockConfig(operator=f"spvit_conv{kernel}")
    with pytest.raises(ConfigError, match=r"blocks\.0\.operator: must have the option bypass"):
        check(ModelConfig(pooling="cls", blocks=(block,)))
    check(ModelConfig(pooling="cls", blocks=(block.replace(options={"bypass": True}),)))


@pytest.mark.parametrize("alpha", [0.0, -0.01, 1e-5])
def test_alpha_is_not_too_small_to_divide_by(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"options\.alpha: must be greater than or equal"):
        check_layer(BlockConfig(operator="spvit_conv3", options={"alpha": alpha}))


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_closed_form_is_what_is_counted(size: Size) -> None:
    layer, spec = size.layer(), OPERATORS[f"spvit_conv{size.kernel}"]
    module = BottleneckConvolution(layer, size.kernel)
    macs = measure_macs(module, (layer.grid.num_tokens, layer.embed_width))
    assert macs == spec.macs(layer) == spec.training_macs(layer)
    assert sum(parameter.numel() for parameter in module.parameters()) == spec.params(layer)


def test_deit_tiny_costs_what_its_bottlenecks_cost() -> None:
    block = BlockConfig(operator="spvit_conv3", num_heads=3, head_size=64)
    layer = LayerShape(block=block, embed_width=192, grid=TokenGrid(height=14, width=14))
    assert OPERATORS["spvit_conv3"].macs(layer) == 196 * (9 * 192 * 64 + 64 * 192)
    assert OPERATORS["spvit_conv1"].macs(layer) == 196 * (192 * 64 + 64 * 192)
    assert OPERATORS["spvit_conv3"].macs(layer) < OPERATORS["softmax"].macs(layer)


def test_castling_keeps_the_statistics_of_the_batch_norm() -> None:
    blocks = tuple(BlockConfig(operator=f"spvit_conv{kernel}") for kernel in (1, 3))
    model = build_model(ModelConfig(blocks=blocks), seed=0)
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        model(images)
    assert model.blocks[1].attn.norm.running_mean.any()
    assert torch.equal(castle(model)(images), model.eval()(images))
