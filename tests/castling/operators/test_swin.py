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
from timm.models.swin_transformer import SwinTransformerBlock
from timm.optim import param_groups_weight_decay
from torch import Tensor

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.build import build
from castling.model.check import check, check_layer
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.swin import SwinAttention
from castling.operators.reference import swin as reference
from castling.operators.spec import LayerShape
from castling.operators.swin import SwinOptions, shifts, window_sides
from space.measure import measure_macs, measure_params


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer."""

    height: int
    width: int
    heads: int = 1
    size: int = 4
    window: int = 0
    index: int = 0
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}"
        return f"{tokens}-h{self.heads}x{self.size}-window{self.window}-layer{self.index}"

    def layer(self) -> LayerShape:
        return LayerShape(
            block=BlockConfig(
                operator="swin",
                num_heads=self.heads,
                head_size=self.size,
                options={"window_size": self.window},
            ),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width),
            qkv_bias=self.bias,
            index=self.index,
        )


AWKWARD = [
    Size(height=1, width=1, index=1),
    Size(height=1, width=6, heads=3),
    Size(height=5, width=4, heads=3),
    Size(height=5, width=4, heads=3, index=1, bias=False),
    Size(height=8, width=4, heads=3, size=1, index=1),
    Size(height=3, width=9, size=5, index=1, embed=5),
    Size(height=4, width=6, heads=3, window=2, index=0),
    Size(height=4, width=6, heads=3, window=2, index=1),
    Size(height=6, width=9, size=3, window=3, index=3),
    Size(height=8, width=8, heads=3, size=2, index=1, bias=False, embed=7),
    Size(height=10, width=5, size=3, index=1),
]


def oracle(module: SwinAttention, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definition, image by image and head by head."""
    weights, grid, window = dict(module.named_parameters()), layer.grid, window_sides(layer)
    table = weights["position.bias"].unflatten(0, (2 * window[0] - 1, 2 * window[1] - 1))
    images = []
    for image in x:
        mixed = [
            reference.swin(
                (q, k, v), table[..., head], (grid.height, grid.width), window, shifts(layer)
            )
            for head, (q, k, v) in enumerate(heads_of(weights, layer, image))
        ]
        images.append(torch.cat(mixed, dim=1))
    return F.linear(torch.stack(images), weights["proj.weight"], weights["proj.bias"])


def built(layer: LayerShape, dtype: torch.dtype) -> SwinAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = SwinAttention(layer).to(dtype)
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
    layer = Size(height=4, width=6, heads=3, window=2, index=1).layer()
    module = built(layer, torch.float32)
    x = random_input(layer, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x)
    assert relative_error(output, module(x)) < 8 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_closed_forms_are_what_is_counted(size: Size) -> None:
    layer, spec = size.layer(), OPERATORS["swin"]
    module = spec.build(layer)
    assert spec.macs(layer) == measure_macs(module, (layer.grid.num_tokens, layer.embed_width))
    assert spec.params(layer) == measure_params(module)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [0.0, 1e3])
def test_zero_and_large_tokens_give_numbers_never_nan(
    dtype: torch.dtype, magnitude: float
) -> None:
    layer = Size(height=4, width=6, heads=3, window=2, index=1).layer()
    module = built(layer, dtype)
    x = (random_input(layer, dtype) * magnitude).requires_grad_()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize(
    ("sides", "window", "index"),
    [((8, 8), 4, 0), ((8, 8), 4, 1), ((14, 7), 7, 1), ((9, 6), 3, 1), ((7, 7), 7, 1)],
)
def test_loads_the_weights_of_timm_and_computes_the_same(
    sides: tuple[int, int], window: int, index: int
) -> None:
    torch.manual_seed(0)
    theirs = SwinTransformerBlock(
        12, sides, num_heads=3, window_size=window, shift_size=window // 2 * index
    )
    torch.nn.init.normal_(theirs.attn.relative_position_bias_table)
    layer = Size(height=sides[0], width=sides[1], heads=3, window=window, index=index, embed=12)
    ours = SwinAttention(layer.layer())
    weights = {
        key.replace("relative_position_bias_table", "position.bias"): value
        for key, value in theirs.attn.state_dict().items()
        if key != "relative_position_index"
    }
    ours.load_state_dict(weights)
    x = torch.randn(2, *sides, 12)
    expected = theirs._attn(x).flatten(1, 2)
    torch.testing.assert_close(ours(x.flatten(1, 2)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sides", "given", "window", "shift"),
    [
        ((7, 7), 0, (7, 7), (0, 0)),
        ((14, 14), 0, (7, 7), (3, 3)),
        ((8, 8), 0, (4, 4), (2, 2)),
        ((8, 4), 0, (4, 4), (2, 0)),
        ((5, 4), 0, (5, 4), (0, 0)),
        ((9, 16), 0, (3, 4), (1, 2)),
        ((1, 1), 0, (1, 1), (0, 0)),
        ((1, 10), 0, (1, 5), (0, 2)),
        ((14, 14), 2, (2, 2), (1, 1)),
        ((16, 8), 8, (8, 8), (4, 0)),
        ((11, 11), 11, (11, 11), (0, 0)),
    ],
)
def test_windows_and_shifts(
    sides: tuple[int, int], given: int, window: tuple[int, int], shift: tuple[int, int]
) -> None:
    for index in range(4):
        layer = Size(height=sides[0], width=sides[1], window=given, index=index).layer()
        assert OPERATORS["swin"].check(layer) == ""
        assert window_sides(layer) == window
        assert shifts(layer) == (shift if index % 2 else (0, 0))
        assert SwinAttention(layer).shift == shifts(layer)


@pytest.mark.parametrize(
    ("sides", "window", "pooling", "rule"),
    [
        ((11, 11), 0, "mean", "both sides of 11 x 11 must have a divisor from 2 to 7"),
        ((4, 11), 0, "mean", "both sides of 4 x 11 must have a divisor from 2 to 7"),
        ((8, 8), 3, "mean", "window_size must divide 8 x 8 and be above 1"),
        ((8, 4), 8, "mean", "window_size must divide 8 x 4 and be above 1"),
        ((4, 8), 8, "mean", "window_size must divide 4 x 8 and be above 1"),
        ((8, 8), 1, "mean", "window_size must divide 8 x 8 and be above 1"),
        ((8, 8), 0, "cls", "must be one that takes a class token"),
    ],
)
def test_a_layer_that_cannot_be_served_is_refused_with_the_model(
    sides: tuple[int, int], window: int, pooling: str, rule: str
) -> None:
    block = BlockConfig(operator="swin", options={"window_size": window})
    with pytest.raises(ConfigError, match=rule) as refusal:
        check(ModelConfig(image_size=sides, patch_size=1, pooling=pooling, blocks=(block,)))
    assert refusal.value.field == "blocks.0.operator"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("window", [-1, 2.5, "big"])
def test_options_out_of_range_are_refused(window: float | str) -> None:
    with pytest.raises(ConfigError, match=r"options\.window_size: must"):
        check_layer(BlockConfig(operator="swin", options={"window_size": window}))


def test_the_default_is_automatic_windows() -> None:
    assert SwinOptions() == SwinOptions(window_size=0)


def reached(layer: LayerShape, token: int) -> list[int]:
    """Return the tokens whose output changes with a token of the input."""
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64)
    other = x.clone()
    other[:, token] += 1.0
    difference = (module(other) - module(x)).abs().amax(dim=(0, 2))
    return torch.nonzero(difference > 1e-9).flatten().tolist()


def test_a_token_reaches_its_window_and_no_other() -> None:
    layer = Size(height=4, width=6, heads=3, window=2).layer()
    assert reached(layer, 0) == [0, 1, 6, 7]
    assert reached(layer, 9) == [2, 3, 8, 9]


def test_a_shifted_window_straddles_borders_and_does_not_wrap_around_the_image() -> None:
    layer = Size(height=4, width=6, heads=3, window=2, index=1).layer()
    assert reached(layer, 7) == [7, 8, 13, 14]
    assert reached(layer, 0) == [0]
    assert reached(layer, 5) == [5]
    assert reached(layer, 3) == [3, 4]
    assert reached(layer, 6) == [6, 12]


def test_a_shift_along_one_side_only_wraps_nothing_along_the_other() -> None:
    layer = Size(height=8, width=4, index=1).layer()
    assert reached(layer, 0) == list(range(8))
    assert reached(layer, 8) == list(range(8, 24))


def test_one_window_over_the_grid_without_bias_is_softmax_attention() -> None:
    layer = Size(height=5, width=4, heads=3, index=1).layer()
    module = built(layer, torch.float64)
    softmax = OPERATORS["softmax"].build(layer).double()
    torch.nn.init.zeros_(module.position.bias)
    weights = module.state_dict()
    del weights["position.bias"]
    softmax.load_state_dict(weights)
    x = random_input(layer, torch.float64)
    torch.testing.assert_close(module(x), softmax(x), rtol=1e-12, atol=1e-12)


def test_every_other_block_of_a_model_is_shifted() -> None:
    block = BlockConfig(operator="swin", num_heads=2, head_size=4)
    config = ModelConfig(image_size=8, patch_size=1, embed_width=8, blocks=(block,) * 4)
    model = build(config, seed=0)
    assert [each.attn.shift for each in model.blocks] == [(0, 0), (2, 2)] * 2


def test_weight_decay_passes_the_position_bias_over() -> None:
    module = SwinAttention(Size(height=4, width=4).layer())
    free, decayed = param_groups_weight_decay(module, 0.05)
    assert any(parameter is module.position.bias for parameter in free["params"])
    assert free["weight_decay"] == 0.0
    assert len(decayed["params"]) == 2
