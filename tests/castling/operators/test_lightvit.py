import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle_comparison import (
    compare_with_oracle,
    random_input,
    relative_error,
    values_and_gradients,
)
from torch import Tensor

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.check import check, check_layer
from castling.operators import OPERATORS, TokenGrid
from castling.operators.lightvit import LightViTOptions, window_side
from castling.operators.modules.lightvit import LightViTAttention
from castling.operators.reference import lightvit as reference
from castling.operators.spec import LayerShape
from space.measure import measure_macs, measure_params


VECTORS = Path(__file__).parents[2] / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer; `window` 0 is automatic."""

    height: int
    width: int
    prefix: int = 0
    heads: int = 1
    size: int = 4
    num_global: int = 4
    window: int = 0
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        return f"{tokens}-h{self.heads}x{self.size}-global{self.num_global}-window{self.window}"

    def layer(self) -> LayerShape:
        options: dict[str, bool | int | float | str] = {
            "num_global_tokens": self.num_global,
            "window_size": self.window,
        }
        return LayerShape(
            block=BlockConfig(
                operator="lightvit", num_heads=self.heads, head_size=self.size, options=options
            ),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=2, width=2),
    Size(height=2, width=4, heads=3, num_global=1),
    Size(height=2, width=4, heads=3, size=1, prefix=1, num_global=1),
    Size(height=4, width=2, heads=3, size=5, prefix=1, embed=5),
    Size(height=3, width=6, heads=1, size=3, num_global=7, bias=False),
    Size(height=6, width=3, heads=3, prefix=1, bias=False, embed=7),
    Size(height=4, width=4, window=2, heads=3),
    Size(height=4, width=6, window=2, prefix=1, num_global=2),
    Size(height=8, width=8, window=8, size=3, num_global=2),
]


def oracle(module: LightViTAttention, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definitions, image by image and head by head."""
    weights = dict(module.named_parameters())
    num_learned = weights["global_tokens"].shape[1]
    side = window_side(layer)
    table = weights["position_bias"].reshape(2 * side - 1, 2 * side - 1, -1)

    def heads(name: str, tokens: Tensor) -> list[tuple[Tensor, ...]]:
        parts = F.linear(tokens, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        split = parts.split(layer.block.attention_width, dim=1)
        by_head = [part.split(layer.block.head_size, dim=1) for part in split]
        return list(zip(*by_head, strict=True))

    images = []
    for image in x:
        mixed = reference.lightvit(
            torch.cat([weights["global_tokens"][0], image]),
            num_learned + layer.grid.num_prefix,
            layer.grid.width,
            lambda tokens: heads("qkv", tokens),
            lambda tokens: heads("kv_global", tokens),
            table.unbind(2),
        )
        images.append(mixed[num_learned:])
    return F.linear(torch.stack(images), weights["proj.weight"], weights["proj.bias"])


def built(layer: LayerShape, dtype: torch.dtype) -> LightViTAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = LightViTAttention(layer).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return module


compare = partial(compare_with_oracle, built, oracle)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float64, 1e-12)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float32_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float32, 1e-5)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bfloat16_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.bfloat16, 8 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("magnitude", [0.0, 1e3])
def test_zero_and_large_tokens_give_numbers_never_nan(magnitude: float) -> None:
    layer = Size(height=2, width=4, heads=3, prefix=1).layer()
    for dtype in (torch.float32, torch.bfloat16):
        module = built(layer, dtype)
        x = (random_input(layer, dtype) * magnitude).requires_grad_()
        for name, tensor in values_and_gradients(module(x), x, module).items():
            assert torch.isfinite(tensor).all(), name


def test_autocast_is_near_float32() -> None:
    layer = Size(height=4, width=6, window=2, heads=3).layer()
    module = built(layer, torch.float32)
    x = random_input(layer, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x)
    assert relative_error(output, module(x)) < 8 * torch.finfo(torch.bfloat16).eps


def recorded() -> tuple[dict[str, Tensor], LayerShape]:
    with np.load(VECTORS / "lightvit.npz") as file:
        arrays = {key: file[key] for key in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    options = {"num_global_tokens": meta["global_tokens"], "window_size": meta["window_size"]}
    block = BlockConfig(
        operator="lightvit",
        num_heads=meta["num_heads"],
        head_size=meta["dim"] // meta["num_heads"],
        options=options,
    )
    grid = TokenGrid(height=meta["height"], width=meta["width"])
    layer = LayerShape(block=block, embed_width=meta["dim"], grid=grid, qkv_bias=meta["qkv_bias"])
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, layer


def test_equals_the_vectors_recorded_from_the_released_module() -> None:
    arrays, layer = recorded()
    module = LightViTAttention(layer)
    weights = {
        key.removeprefix("param.").replace("relative_position_bias_table", "position_bias"): value
        for key, value in arrays.items()
        if key.startswith("param.")
    }
    assert torch.equal(weights.pop("relative_position_index"), module.relative_position.flatten())
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["global_tokens"], [])
    output = module.proj(module.mix(arrays["in.x"]))
    torch.testing.assert_close(output, arrays["out"], rtol=1e-5, atol=1e-5)

    num_global = module.global_tokens.shape[1]
    for tokens, expected in zip(arrays["in.x"], arrays["out"], strict=True):
        module.global_tokens.data = tokens[None, :num_global]
        image = module(tokens[None, num_global:])
        torch.testing.assert_close(image[0], expected[num_global:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "given", "side"),
    [
        (7, 7, 0, 7),
        (14, 14, 0, 7),
        (8, 4, 0, 4),
        (16, 24, 0, 4),
        (12, 18, 0, 6),
        (10, 15, 0, 5),
        (9, 6, 0, 3),
        (2, 4, 0, 2),
        (14, 14, 2, 2),
        (16, 16, 8, 8),
        (11, 11, 11, 11),
    ],
)
def test_windows_are_the_largest_that_fit_or_as_given(
    height: int, width: int, given: int, side: int
) -> None:
    layer = Size(height=height, width=width, window=given).layer()
    assert OPERATORS["lightvit"].check(layer) == ""
    assert window_side(layer) == side
    module = LightViTAttention(layer)
    assert module.window == side
    assert module.position_bias.shape[0] == (2 * side - 1) ** 2


@pytest.mark.parametrize(
    ("sides", "window", "rule"),
    [
        ((1, 1), 0, "sides 1 x 1 must have a common divisor from 2 to 7"),
        ((5, 4), 0, "sides 5 x 4 must have a common divisor from 2 to 7"),
        ((11, 11), 0, "sides 11 x 11 must have a common divisor from 2 to 7"),
        ((8, 8), 3, "window_size must divide 8 x 8 and be above 1"),
        ((8, 4), 8, "window_size must divide 8 x 4 and be above 1"),
        ((4, 8), 8, "window_size must divide 4 x 8 and be above 1"),
        ((8, 8), 1, "window_size must divide 8 x 8 and be above 1"),
    ],
)
def test_a_grid_without_windows_is_refused_with_the_model(
    sides: tuple[int, int], window: int, rule: str
) -> None:
    block = BlockConfig(operator="lightvit", options={"window_size": window})
    with pytest.raises(ConfigError, match=rule) as refusal:
        check(ModelConfig(image_size=sides, patch_size=1, blocks=(block,)))
    assert refusal.value.field == "blocks.0.operator"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("options", [{"num_global_tokens": 0}, {"window_size": -1}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(options))}: must"):
        check_layer(BlockConfig(operator="lightvit", options=dict(options)))


def test_global_tokens_start_at_the_size_that_a_norm_gives() -> None:
    layer = Size(height=2, width=2, num_global=64, embed=64).layer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokens = LightViTAttention(layer).global_tokens
    assert tokens.shape == (1, 64, 64)
    assert abs(tokens.detach().std().item() - 1.0) < 0.05


def test_the_defaults_are_four_tokens_and_automatic_windows() -> None:
    assert LightViTOptions() == LightViTOptions(num_global_tokens=4, window_size=0)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_closed_forms_are_what_is_counted(size: Size) -> None:
    layer, spec = size.layer(), OPERATORS["lightvit"]
    module = LightViTAttention(layer)
    assert spec.macs(layer) == measure_macs(module, (layer.grid.num_tokens, layer.embed_width))
    assert spec.params(layer) == measure_params(module)


def test_the_core_costs_what_the_paper_says() -> None:
    """2 N M^2 C + 4 N T C beside the projections, and 2 T C^2 that the paper leaves out."""
    layer = Size(height=14, width=14, heads=2, size=32, embed=64, num_global=8).layer()
    tokens, width, num_global, side = 196, 64, 8, 7
    projections = 3 * (tokens + num_global) * width**2 + tokens * width**2
    core = 2 * tokens * side**2 * width + 4 * tokens * num_global * width
    expected = projections + core + 2 * num_global * width**2
    assert OPERATORS["lightvit"].macs(layer) == expected


def changed_tokens(module: LightViTAttention, x: Tensor, token: int) -> list[int]:
    """Return the tokens whose output changes with a token of the input."""
    other = x.clone()
    other[:, token] += 1.0
    difference = (module(other) - module(x)).abs().amax(dim=(0, 2))
    return torch.nonzero(difference > 1e-9).flatten().tolist()


def test_without_broadcast_a_token_reaches_its_window_and_with_it_the_image() -> None:
    layer = Size(height=4, width=6, window=2, heads=3).layer()
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64)
    assert changed_tokens(module, x, 9) == list(range(24))
    with torch.no_grad():
        module.kv_global.weight.zero_()
    assert changed_tokens(module, x, 9) == [2, 3, 8, 9]


def test_a_class_token_gathers_from_the_image_alone_and_broadcasts_to_it() -> None:
    layer = Size(height=4, width=4, window=2, heads=3, prefix=1).layer()
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64)
    assert changed_tokens(module, x, 0) == list(range(17))
    before = module(x)
    with torch.no_grad():
        module.global_tokens.add_(1.0)
        module.position_bias.add_(torch.linspace(0, 1, 9)[:, None])
    assert torch.equal(module(x)[:, 0], before[:, 0])
    assert (module(x) - before)[:, 1:].abs().amin(dim=(0, 2)).min() > 1e-6


def test_the_order_of_the_global_tokens_does_not_matter() -> None:
    layer = Size(height=4, width=2, heads=3, num_global=5).layer()
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64)
    before = module(x)
    module.global_tokens.data = module.global_tokens.data[:, [3, 0, 4, 1, 2]]
    torch.testing.assert_close(module(x), before, rtol=1e-12, atol=1e-12)


def test_equal_values_are_gathered_and_averaged_unchanged() -> None:
    """All attention rows sum to one: v for every token gives 2 v where broadcast is v as well."""
    layer = Size(height=2, width=4, heads=3, bias=False, embed=12).layer()
    module = built(layer, torch.float64)
    width = layer.block.attention_width
    with torch.no_grad():
        module.kv_global.weight[width:] = torch.eye(width)
    x = random_input(layer, torch.float64)[:, :1].expand(-1, 8, -1)
    v = F.linear(x, module.qkv.weight[2 * width :])
    expected = module.proj(2.0 * v)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-12)
