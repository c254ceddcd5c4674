import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle_comparison import random_input, relative_error, values_and_gradients
from torch import Tensor, nn

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.check import check, check_layer
from castling.operators import OPERATORS, TokenGrid
from castling.operators.fcvit import FCViTOptions
from castling.operators.modules.fcvit import EPSILON, FCViTMixer, GlobalContext, standardize
from castling.operators.reference import fcvit as reference
from castling.operators.spec import LayerShape
from space.measure import measure_macs, measure_params


VECTORS = Path(__file__).parents[2] / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer."""

    height: int
    width: int
    embed: int = 6
    kernel: int = 3
    groups: int = 3
    reduction: int = 2

    def __str__(self) -> str:
        """The name of the test."""
        options = f"groups{self.groups}-reduction{self.reduction}"
        return f"{self.height}x{self.width}x{self.embed}-kernel{self.kernel}-{options}"

    def layer(self) -> LayerShape:
        options: dict[str, bool | int | float | str] = {
            "groups": self.groups,
            "reduction": self.reduction,
        }
        return LayerShape(
            block=BlockConfig(operator="fcvit", conv_kernel=self.kernel, options=options),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width),
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=1, groups=1, kernel=9),
    Size(height=1, width=2, groups=1, reduction=1),
    Size(height=2, width=3, kernel=1),
    Size(height=3, width=2, embed=7, groups=7, reduction=8),
    Size(height=5, width=2, embed=5, groups=1, kernel=11, reduction=3),
    Size(height=4, width=3, embed=8, groups=8, kernel=5, reduction=100),
    Size(height=1, width=7, embed=9, groups=3, kernel=15, reduction=4),
    Size(height=2, width=2, embed=34, groups=2, reduction=2),
]


def oracle(module: FCViTMixer, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definitions, image by image."""
    steps = [dict(step.named_parameters()) for step in module.steps]
    grid = layer.grid
    return torch.stack(
        [reference.token_mixer(image, grid.height, grid.width, steps) for image in x]
    )


def built(layer: LayerShape, dtype: torch.dtype) -> FCViTMixer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = FCViTMixer(layer).to(dtype)
        for parameter in module.parameters():
            fan_in = max(1, parameter[0].numel())
            nn.init.normal_(parameter, std=1.0 / math.sqrt(fan_in))
    return module


def both(layer: LayerShape, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what the module gives in `dtype`, and the oracle in float64 on the same numbers."""
    module = built(layer, dtype)
    x = random_input(layer, dtype).requires_grad_()
    exact_module = built(layer, dtype).double()
    exact_x = x.detach().double().requires_grad_()
    got = values_and_gradients(module(x), x, module)
    for name, tensor in got.items():
        assert tensor.dtype == dtype, name
        assert torch.isfinite(tensor).all(), name
    output = oracle(exact_module, layer, exact_x)
    return got, values_and_gradients(output, exact_x, exact_module)


def together(tensors: dict[str, Tensor]) -> Tensor:
    """Return all gradients as one vector."""
    gradients = [tensor for name, tensor in tensors.items() if name != "output"]
    return torch.cat([gradient.double().flatten() for gradient in gradients])


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    got, expected = both(size.layer(), torch.float64)
    for name, tensor in got.items():
        assert relative_error(tensor, expected[name]) < 1e-12, name


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float32_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    got, expected = both(size.layer(), torch.float32)
    assert relative_error(got["output"], expected["output"]) < 1e-5
    for name, tensor in got.items():
        assert relative_error(tensor, expected[name]) < 200 * torch.finfo(torch.float32).eps, name


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bfloat16_is_near_the_oracle_in_values_and_gradients(size: Size) -> None:
    """Gradients as one vector: a small one is a difference of large ones, each rounded."""
    got, expected = both(size.layer(), torch.bfloat16)
    tolerance = 8 * torch.finfo(torch.bfloat16).eps
    assert relative_error(got["output"], expected["output"]) < tolerance
    exact = together(expected)
    assert (together(got) - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_images_of_one_value_give_numbers_and_gradients_never_nan(
    dtype: torch.dtype, value: float
) -> None:
    """All similarities are equal then, their standard deviation is zero."""
    layer = Size(height=2, width=3, groups=1).layer()
    module = built(layer, dtype)
    x = torch.full((2, 6, 6), value, dtype=dtype, requires_grad=True)
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name
    if dtype == torch.float64:
        got = values_and_gradients(module(x), x, module)
        exact = values_and_gradients(oracle(module, layer, x), x, module)
        assert relative_error(got["output"], exact["output"]) < 1e-9  # rounding over EPSILON


def test_autocast_is_near_float32() -> None:
    layer = Size(height=4, width=3, embed=8, groups=4, kernel=5).layer()
    module = built(layer, torch.float32)
    x = random_input(layer, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x)
    assert relative_error(output, module(x)) < 8 * torch.finfo(torch.bfloat16).eps


def recorded(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with np.load(VECTORS / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, meta


def as_tokens(image: Tensor) -> Tensor:
    """Turn (batch, channel, height, width) into (batch, token, channel)."""
    return image.flatten(2).transpose(1, 2)


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of a released global context the names of ours."""
    names = {"rescale_weight": "weight", "rescale_bias": "bias"}
    return {
        names.get(key, key.replace("fc1", "reduce").replace("fc2", "expand")): value
        for key, value in weights.items()
    }


def under(prefix: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)
    }


def test_global_context_equals_the_recorded_vectors() -> None:
    arrays, meta = recorded("fcvit_global_context")
    options = FCViTOptions(groups=meta["heads"], reduction=meta["reduction"])
    module = GlobalContext(meta["dim"], options)
    module.load_state_dict(renamed(under("param.", arrays)))
    output = module(as_tokens(arrays["in.x"]))
    torch.testing.assert_close(output, as_tokens(arrays["out"]), rtol=1e-5, atol=1e-5)


def test_token_mixer_equals_the_recorded_vectors() -> None:
    arrays, meta = recorded("fcvit_token_mixer")
    layer = Size(
        height=meta["height"],
        width=meta["width"],
        embed=meta["dim"],
        kernel=meta["kernel"],
        groups=meta["heads"],
        reduction=meta["reduction"],
    ).layer()
    weights: dict[str, Tensor] = {}
    for index in (0, 1):
        released, ours = index + 1, f"steps.{index}"
        context = renamed(under(f"param.gc{released}.", arrays))
        weights |= {f"{ours}.context.{key}": value for key, value in context.items()}
        conv = under(f"param.dw{released}.", arrays)
        weights |= {f"{ours}.conv.{key}": value for key, value in conv.items()}
        for part, name in ((0, "squeeze"), (2, "widen")):
            linear = under(f"param.fc{released}.{part}.", arrays)
            weights |= {
                f"{ours}.{name}.{key}": value.flatten(1) if value.ndim > 1 else value
                for key, value in linear.items()
            }
    module = FCViTMixer(layer)
    module.load_state_dict(weights)
    output = module(as_tokens(arrays["in.x"]))
    torch.testing.assert_close(output, as_tokens(arrays["out"]), rtol=1e-5, atol=1e-5)


def test_the_defaults_are_the_released_ones() -> None:
    assert FCViTOptions() == FCViTOptions(groups=8, reduction=8)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_closed_forms_are_what_is_counted(size: Size) -> None:
    layer, spec = size.layer(), OPERATORS["fcvit"]
    module = FCViTMixer(layer)
    assert spec.macs(layer) == measure_macs(module, (layer.grid.num_tokens, layer.embed_width))
    assert spec.params(layer) == measure_params(module)


def test_the_bottleneck_never_falls_below_sixteen_channels() -> None:
    for embed, reduction, hidden in ((64, 8, 16), (256, 8, 32), (6, 2, 16)):
        layer = Size(height=2, width=2, embed=embed, groups=2, reduction=reduction).layer()
        step = FCViTMixer(layer).steps[0]
        assert step.squeeze.weight.shape == (hidden, embed)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "options", "rule"),
    [
        ({"embed_width": 12}, {}, "groups=8 must divide the embed width 12"),
        ({"embed_width": 16}, {"groups": 3}, "groups=3 must divide the embed width 16"),
        ({"embed_width": 16, "pooling": "cls"}, {}, "must be one that takes a class token"),
    ],
)
def test_layers_that_do_not_fit_are_refused_with_the_model(
    changes: dict[str, Any], options: dict[str, Any], rule: str
) -> None:
    block = BlockConfig(operator="fcvit", options=options)
    with pytest.raises(ConfigError, match=rule) as refusal:
        check(ModelConfig(blocks=(block,), **changes))
    assert refusal.value.field == "blocks.0.operator"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("options", [{"groups": 0}, {"reduction": 0}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(options))}: must"):
        check_layer(BlockConfig(operator="fcvit", options=dict(options)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_standardised_numbers_have_mean_zero_and_deviation_one(
    dtype: torch.dtype, offset: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    x = (torch.randn(2, 9, 5, generator=generator) * 8.0 + offset).to(dtype)
    standard, eps = standardize(x).double(), torch.finfo(dtype).eps
    assert standard.mean(dim=(1, 2)).abs().max() < 16 * eps
    assert (standard.std(dim=(1, 2)) - 1.0).abs().max() < 16 * eps + 2 * EPSILON


def test_bfloat16_is_standardised_in_float32_and_rounded_once() -> None:
    generator = torch.Generator().manual_seed(3)
    x = (torch.randn(2, 9, 5, generator=generator) + 100.0).bfloat16()
    assert torch.equal(standardize(x), standardize(x.float()).bfloat16())


def test_the_deviation_is_the_unbiased_one() -> None:
    x = torch.tensor([[[1.0], [2.0], [6.0]]], dtype=torch.float64)
    expected = (x - 3.0) / (math.sqrt(7.0) + 1e-5)
    torch.testing.assert_close(standardize(x), expected, rtol=1e-12, atol=0.0)
    assert standardize(x[:, :1]).tolist() == [[[0.0]]]


def test_the_context_is_largest_where_a_token_is_most_like_the_mean() -> None:
    module = GlobalContext(6, FCViTOptions(groups=1, reduction=2)).double()
    x = torch.zeros(1, 3, 6, dtype=torch.float64)
    x[0, 0, 0], x[0, 1, 1], x[0, 2] = 1.0, -1.0, torch.tensor([2.0, -2.0, 0, 0, 0, 0])
    sizes = module(x)[0].norm(dim=-1)
    assert sizes[2] > sizes[0]
    torch.testing.assert_close(sizes[0], sizes[1])
    directions = torch.nn.functional.normalize(module(x)[0], dim=-1)
    torch.testing.assert_close(directions[0], -directions[2])


def test_the_context_knows_no_positions() -> None:
    module = GlobalContext(6, FCViTOptions(groups=3, reduction=2)).double()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order], rtol=1e-9, atol=1e-12)


def test_positions_count_through_the_convolution() -> None:
    layer = Size(height=2, width=3).layer()
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64)
    flipped = module(x.flip(1)).flip(1)
    assert (flipped - module(x)).abs().max() > 1e-3
    with torch.no_grad():
        for step in module.steps:
            taps = step.conv.weight  # type: ignore[union-attr]
            taps.copy_((taps + taps.flip(2, 3)) / 2)  # type: ignore[operator]
    torch.testing.assert_close(module(x.flip(1)).flip(1), module(x), rtol=1e-9, atol=1e-12)
