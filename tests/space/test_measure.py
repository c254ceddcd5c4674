import logging
import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from measured_function import MeasuredFunction
from torch import Tensor, nn

import castling
from castling.config import BlockConfig, ModelConfig
from castling.errors import UncountedOperatorError
from castling.model.backbone import backbone_config
from castling.model.build import build
from castling.model.castle import castle
from castling.operators import OPERATORS
from castling.operators.modules.softmax import SoftmaxAttention
from castling.operators.spec import fits_anywhere
from space.cost import cost
from space.measure import measure_latency_ms, measure_macs, measure_model, measure_params


EVERYWHERE = [name for name, spec in OPERATORS.items() if spec.check is fits_anywhere]
"""The operators that serve every layer; those with rules have tests of their own."""


def attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


def explicit_attention(x: Tensor) -> Tensor:
    return ((x @ x.transpose(-2, -1)) * x.shape[-1] ** -0.5).softmax(-1) @ x


@pytest.mark.parametrize(
    ("num_heads", "num_tokens", "size"), [(1, 5, 3), (3, 16, 8), (4, 49, 2), (2, 1, 7)]
)
def test_fused_attention_counts_as_its_two_products(
    num_heads: int, num_tokens: int, size: int
) -> None:
    """fvcore alone counts nothing for the fused kernel; 2 N^2 C is what it computes."""
    shape = (num_heads, num_tokens, size)
    expected = 2 * num_tokens**2 * num_heads * size
    assert measure_macs(MeasuredFunction(attention), shape) == expected
    assert measure_macs(MeasuredFunction(explicit_attention), shape) == expected


def test_cross_attention_counts_queries_keys_and_values_each_by_its_size() -> None:
    def cross(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x[:, :, :3], x, x[..., :2].contiguous())

    def explicit(x: Tensor) -> Tensor:
        return (x[:, :, :3] @ x.transpose(-2, -1)).softmax(-1) @ x[..., :2]

    expected = 2 * 3 * 5 * (4 + 2)
    assert measure_macs(MeasuredFunction(cross), (2, 5, 4)) == expected
    assert measure_macs(MeasuredFunction(explicit), (2, 5, 4)) == expected


class ExplicitSoftmaxAttention(SoftmaxAttention):
    """The same layer with the products written out."""

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = ((q * self.head_size**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2))


def test_a_model_counts_the_same_with_fused_and_explicit_attention() -> None:
    block = BlockConfig(operator="softmax", num_heads=3, head_size=8)
    config = ModelConfig(embed_width=20, pooling="cls", blocks=(block,) * 2)
    fused, explicit = build(config, seed=0).eval(), build(config, seed=0).eval()
    for module in explicit.modules():
        if isinstance(module, SoftmaxAttention):
            module.__class__ = ExplicitSoftmaxAttention
    images = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(fused(images), explicit(images))
    assert measure_macs(fused, (1, 8, 8)) == measure_macs(explicit, (1, 8, 8))


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Linear(8, 5), (3, 4, 8), 3 * 4 * 8 * 5),
        (nn.Conv2d(2, 6, 3, padding=1), (2, 5, 7), 5 * 7 * 2 * 6 * 9),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), (6, 5, 7), 5 * 7 * 6 * 9),
        (
            MeasuredFunction(lambda x: torch.einsum("bchw,bcvw->bchv", x, x)),
            (2, 3, 4),
            2 * 3 * 3 * 4,
        ),
        (MeasuredFunction(lambda x: x @ x.transpose(-2, -1)), (2, 3, 4), 2 * 3 * 3 * 4),
    ],
    ids=["linear", "convolution", "depthwise", "einsum", "matmul"],
)
def test_products_count_one_mac_per_multiply_add(
    model: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    assert measure_macs(model, shape) == macs


@pytest.mark.parametrize(
    "model",
    [
        nn.LayerNorm(4),
        nn.BatchNorm2d(6),
        nn.GroupNorm(2, 6),
        nn.InstanceNorm2d(6, affine=True),
        nn.Sequential(nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1)),
        nn.Sequential(nn.BatchNorm2d(6), nn.Upsample(scale_factor=2)),
        nn.Sequential(nn.BatchNorm2d(6), nn.Upsample(scale_factor=2, mode="bilinear")),
        MeasuredFunction(lambda x: F.gelu(x).softmax(-1) * x.rsqrt() + x.mean()),
    ],
    ids=["layer", "batch", "group", "instance", "pool", "nearest", "bilinear", "elementwise"],
)
def test_norms_pooling_and_elementwise_operations_are_free(model: nn.Module) -> None:
    assert measure_macs(model, (6, 4, 4)) == 0


class Doubled(torch.autograd.Function):
    """Python that a trace cannot look into."""

    @staticmethod
    def forward(_: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x + x


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: torch.fft.fft(x).real, "aten::fft_fft"),
        (lambda x: x.cumsum(-1), "aten::cumsum"),
        (lambda x: torch.cdist(x, x), "aten::cdist"),
        (lambda x: torch.baddbmm(x[0], x[0], x[0]), "aten::baddbmm"),
        (lambda x: torch.addmv(x[0, 0, 0], x[0, 0], x[0, 0, 0]), "aten::addmv"),
        (lambda x: torch.einsum("bchw,bchw,bchw->bc", x, x, x), "aten::einsum of 3 operands"),
        (Doubled.apply, "prim::PythonOp.Doubled"),
    ],
    ids=["fft", "cumsum", "cdist", "baddbmm", "addmv", "einsum", "python"],
)
def test_an_operator_that_is_neither_counted_nor_listed_as_free_is_named(
    function: Callable[[Tensor], Tensor], operator: str
) -> None:
    with pytest.raises(UncountedOperatorError, match=operator) as caught:
        measure_macs(MeasuredFunction(function), (2, 4, 4))
    assert any(name.startswith(operator) for name in caught.value.operators)
    assert "\n" not in str(caught.value)


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def partly_frozen() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    model[1].eval()
    return model


@pytest.mark.parametrize(
    "measure",
    [
        lambda model: measure_macs(model, (1, 2, 2)),
        lambda model: measure_latency_ms(model, (1, 2, 2), runs=2),
    ],
    ids=["macs", "latency"],
)
def test_measuring_leaves_every_modules_mode_and_state_as_it_was(
    measure: Callable[[nn.Module], float],
) -> None:
    model = partly_frozen()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model)
    assert modes(model) == [True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_restored_after_a_failure() -> None:
    model = MeasuredFunction(lambda x: x.cumsum(-1)).train()
    with pytest.raises(UncountedOperatorError):
        measure_macs(model, (1, 2, 2))
    broken = MeasuredFunction(lambda x: x @ x).train()
    with pytest.raises(RuntimeError):
        measure_macs(broken, (1, 2, 3))
    assert model.training
    assert broken.training


@pytest.mark.parametrize("operator", EVERYWHERE)
def test_measuring_warns_and_logs_nothing(operator: str, caplog: pytest.LogCaptureFixture) -> None:
    model = build(ModelConfig(blocks=(BlockConfig(operator=operator),)), seed=0)
    with warnings.catch_warnings(record=True) as seen, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        measure_macs(model, (1, 8, 8))
    assert [str(warning.message) for warning in seen] == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_silence_ends_with_the_measurement() -> None:
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level, filters = logger.level, list(warnings.filters)
    measure_macs(nn.Linear(2, 2), (1, 1, 2))
    assert logger.level == level
    assert warnings.filters == filters


def test_the_model_is_measured_in_its_own_precision() -> None:
    assert measure_macs(nn.Linear(8, 5).double(), (1, 1, 8)) == 40


def test_parameters_are_counted_once_each() -> None:
    layer = nn.Linear(3, 4)
    assert measure_params(layer) == 16
    assert measure_params(nn.Sequential(layer, layer)) == 16
    assert measure_params(nn.BatchNorm2d(3)) == 6


def test_latency_is_the_median_of_the_timed_passes() -> None:
    small, large = nn.Linear(8, 8), nn.Sequential(*(nn.Linear(512, 512) for _ in range(20)))
    quick = measure_latency_ms(small, (1, 1, 8), runs=5)
    slow = measure_latency_ms(large, (1, 64, 512), batch=4, runs=5)
    assert 0.0 < quick < slow


def test_a_model_is_measured_castled_and_with_its_branches() -> None:
    config = ModelConfig(blocks=(BlockConfig(),) * 2)
    found = measure_model(config)
    spent = cost(config)
    assert (found.macs, found.params) == (spent.macs, spent.params)
    assert found.training_macs == spent.training_macs > found.macs
    assert found.latency_ms > 0.0
    assert found.macs == measure_macs(castle(build(config, seed=1)), (1, 8, 8))


PUBLISHED = {
    "deit_tiny_patch16_224": (1.254, 1.137),
    "deit_small_patch16_224": (4.599, 4.366),
    "deit_base_patch16_224": (17.564, 17.097),
    "levit_128": (0.406, 0.375),
    "levit_192": (0.658, 0.623),
    "levit_256": (1.128, 1.082),
    "levit_384": (2.353, 2.284),
}
"""GMACs of timm's models with softmax, and with every layer plainly castled."""
QUICK = ("levit_128",)
"""What is traced every time; of the others, the closed form is."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_closed_forms_of_timms_models_are_the_published_costs(name: str) -> None:
    for operator, gmacs in zip(("softmax", "linear_angular"), PUBLISHED[name], strict=True):
        assert cost(backbone_config(name, operator)).macs == pytest.approx(gmacs * 1e9, rel=5e-3)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED],
)
def test_measured_costs_of_timms_models_are_the_published_ones(name: str) -> None:
    softmax, castled = PUBLISHED[name]
    stock = timm.create_model(name)
    assert measure_macs(stock, (3, 224, 224)) == pytest.approx(softmax * 1e9, rel=5e-3)
    model = castling.castle(castling.convert_backbone(stock, "linear_angular"))
    assert measure_macs(model, (3, 224, 224)) == pytest.approx(castled * 1e9, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gmacs"), [("mvitv2_tiny", 4.7), ("swin_tiny_patch4_window7_224", 4.5)]
)
def test_measured_costs_of_mvit_and_swin_are_the_published_ones(name: str, gmacs: float) -> None:
    measured = measure_macs(timm.create_model(name), (3, 224, 224))
    assert measured == pytest.approx(gmacs * 1e9, rel=5e-3)
