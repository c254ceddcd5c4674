import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
from castling.operators.modules.attn_scale import AttnScale
from castling.operators.modules.softmax import SoftmaxAttention
from castling.operators.reference import attn_scale as reference
from castling.operators.spec import LayerShape
from space.measure import measure_macs, measure_params


VECTORS = Path(__file__).parents[2] / "data"


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
            block=BlockConfig(operator="attn_scale", num_heads=self.heads, head_size=self.size),
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


def oracle(module: AttnScale, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definition, image by image and head by head."""
    weights = dict(module.named_parameters())
    images = []
    for image in x:
        heads = heads_of(weights, layer, image)
        mixed = [
            reference.attn_scale(q, k, v, gain)
            for (q, k, v), gain in zip(heads, weights["lamb"], strict=True)
        ]
        images.append(torch.cat(mixed, dim=1))
    return F.linear(torch.stack(images), weights["proj.weight"], weights["proj.bias"])


def built(layer: LayerShape, dtype: torch.dtype) -> AttnScale:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = AttnScale(layer).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return module


def compare(
    layer: LayerShape, dtype: torch.dtype, tolerance: float, smallest_scale: float = 1e-3
) -> None:
    """Compare the module in `dtype` with the oracle in float64 on the same rounded numbers."""
    compare_with_oracle(built, oracle, layer, dtype, tolerance, smallest_scale)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float64, 1e-11)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float32_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float32, 1e-5)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bfloat16_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    # A gain's gradient sums hundreds of terms of size 1, which cancel in one of these layers.
    tolerance = 8 * torch.finfo(torch.bfloat16).eps
    compare(size.layer(), torch.bfloat16, tolerance, smallest_scale=1.0)


def test_autocast_is_near_float32() -> None:
    layer = Size(height=4, width=3, heads=3, prefix=1).layer()
    module = built(layer, torch.float32)
    x = random_input(layer, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x)
    assert relative_error(output, module(x)) < 8 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_closed_forms_are_what_is_counted(size: Size) -> None:
    layer, spec = size.layer(), OPERATORS["attn_scale"]
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


def test_equals_the_vectors_recorded_from_the_released_module() -> None:
    with np.load(VECTORS / "attn_scale.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files}
    meta = json.loads(str(arrays.pop("meta")))
    side = math.isqrt(meta["tokens"] - 1)
    heads = meta["num_heads"]
    block = BlockConfig(operator="attn_scale", num_heads=heads, head_size=meta["dim"] // heads)
    grid = TokenGrid(height=side, width=side, num_prefix=1)
    assert grid.num_tokens == meta["tokens"]
    layer = LayerShape(block=block, embed_width=meta["dim"], grid=grid, qkv_bias=meta["qkv_bias"])
    module = AttnScale(layer)
    module.load_state_dict(
        {
            key.removeprefix("param."): torch.from_numpy(value)
            for key, value in arrays.items()
            if key.startswith("param.")
        }
    )
    output = module(torch.from_numpy(arrays["in.x"]))
    torch.testing.assert_close(output, torch.from_numpy(arrays["out"]), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        module.lamb.zero_()
    assert (module(torch.from_numpy(arrays["in.x"])) - output).abs().max() > 1e-4


def test_it_starts_as_softmax_attention() -> None:
    layer = Size(height=3, width=2, heads=3, prefix=1).layer()
    module, softmax = AttnScale(layer), SoftmaxAttention(layer)
    assert not module.lamb.any()
    missing, unexpected = module.load_state_dict(softmax.state_dict(), strict=False)
    assert (missing, unexpected) == (["lamb"], [])
    x = random_input(layer, torch.float32)
    assert torch.equal(module(x), softmax(x))


def test_a_gain_of_minus_one_leaves_the_mean_and_each_head_has_its_own() -> None:
    layer = Size(height=3, width=2, heads=2, size=3).layer()
    module = built(layer, torch.float64)
    module.proj = torch.nn.Identity()
    x = random_input(layer, torch.float64)
    with torch.no_grad():
        module.lamb.copy_(torch.tensor([-1.0, 0.0]))
        v = module.qkv(x).chunk(3, dim=-1)[2]
        first, second = (module(x) - v.mean(dim=1, keepdim=True)).abs().split(3, dim=-1)
    assert first.max() < 1e-12
    assert second.amax(dim=(0, 2)).min() > 1e-3


def test_rows_of_the_attention_keep_their_sum() -> None:
    """Equal values are passed on unchanged, whatever the gain."""
    layer = Size(height=3, width=2, heads=3, size=4, embed=12).layer()
    module = built(layer, torch.float64)
    width = layer.block.attention_width
    with torch.no_grad():
        module.qkv.weight[2 * width :].zero_()
    module.proj = torch.nn.Identity()
    output = module(random_input(layer, torch.float64))
    expected = module.qkv.bias[2 * width :].expand_as(output)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
