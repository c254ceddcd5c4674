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
from castling.operators.modules.feat_scale import FeatScale
from castling.operators.modules.softmax import SoftmaxAttention
from castling.operators.reference import feat_scale as reference
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
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        return f"{tokens}-h{self.heads}x{self.size}-embed{self.embed}"

    def layer(self) -> LayerShape:
        return LayerShape(
            block=BlockConfig(operator="feat_scale", num_heads=self.heads, head_size=self.size),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=1, prefix=1, heads=3),
    Size(height=1, width=7, heads=3, size=1),
    Size(height=2, width=3, heads=3, size=5, bias=False),
    Size(height=3, width=2, prefix=1, heads=3, embed=5),
    Size(height=5, width=3, heads=1, size=7, embed=4),
]


def oracle(module: FeatScale, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definition, image by image and head by head."""
    weights = dict(module.named_parameters())
    images = []
    for image in x:
        mixed = [reference.softmax_attention(*head) for head in heads_of(weights, layer, image)]
        y = F.linear(torch.cat(mixed, dim=1), weights["proj.weight"], weights["proj.bias"])
        images.append(reference.feat_scale(y, weights["mean_gain"], weights["rest_gain"]))
    return torch.stack(images)


def built(layer: LayerShape, dtype: torch.dtype) -> FeatScale:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = FeatScale(layer).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return module


compare = partial(compare_with_oracle, built, oracle)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float64, 1e-11)


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
    layer, spec = size.layer(), OPERATORS["feat_scale"]
    module = spec.build(layer)
    assert spec.macs(layer) == measure_macs(module, (layer.grid.num_tokens, layer.embed_width))
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


def test_it_starts_as_softmax_attention() -> None:
    layer = Size(height=3, width=2, heads=3, prefix=1).layer()
    module, softmax = FeatScale(layer), SoftmaxAttention(layer)
    missing, unexpected = module.load_state_dict(softmax.state_dict(), strict=False)
    assert (missing, unexpected) == (["mean_gain", "rest_gain"], [])
    x = random_input(layer, torch.float32)
    assert torch.equal(module(x), softmax(x))


def output_with(mean_gain: float, rest_gain: float) -> Tensor:
    layer = Size(height=3, width=2, heads=3, prefix=1).layer()
    module = built(layer, torch.float64)
    with torch.no_grad():
        module.mean_gain.fill_(mean_gain)
        module.rest_gain.fill_(rest_gain)
        return module(random_input(layer, torch.float64))


def test_the_gains_act_on_the_mean_and_on_the_rest_and_are_added_once() -> None:
    plain = output_with(0.0, 0.0)
    mean = plain.mean(dim=1, keepdim=True)
    torch.testing.assert_close(output_with(-1.0, 0.0), plain - mean)
    torch.testing.assert_close(output_with(0.0, -1.0), mean.expand_as(plain))
    torch.testing.assert_close(output_with(1.0, 1.0), 2.0 * plain)
    torch.testing.assert_close(output_with(0.0, 2.0), 3.0 * plain - 2.0 * mean)


def test_the_gains_are_of_the_embed_channels_and_reach_the_bias_of_the_projection() -> None:
    layer = Size(height=3, width=2, heads=3, size=5, embed=4).layer()
    module = built(layer, torch.float64)
    assert module.mean_gain.shape == module.rest_gain.shape == (4,)
    with torch.no_grad():
        module.proj.weight.zero_()
    output = module(random_input(layer, torch.float64))
    expected = module.proj.bias * (1.0 + module.mean_gain)
    torch.testing.assert_close(output, expected.expand_as(output))
