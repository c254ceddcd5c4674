import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_comparison import (
    compare_with_oracle,
    random_input,
    relative_error,
    values_and_gradients,
)
from torch import Tensor

from castling.config import BlockConfig, MaskSchedule
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.linear_angular import LinearAngularAttention, normalize_rows
from castling.operators.reference import linear_angular as reference
from castling.operators.spec import LayerShape


VECTORS = Path(__file__).parents[2] / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer; `mask` is the constant threshold in multiples of uniform attention."""

    height: int
    width: int
    prefix: int = 0
    heads: int = 1
    size: int = 4
    kernel: int = 3
    form: str = "tokens"
    filters: str = "head"
    mask: float | None = None
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        mask = "" if self.mask is None else f"-mask{self.mask}"
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        conv = f"{self.form}{self.kernel}-{self.filters}"
        return f"{tokens}-h{self.heads}x{self.size}-{conv}{mask}"

    def layer(self) -> LayerShape:
        mask = None
        if self.mask is not None:
            mask = MaskSchedule(shape="constant", start_multiple=self.mask)
        return LayerShape(
            block=BlockConfig(
                num_heads=self.heads,
                head_size=self.size,
                conv_kernel=self.kernel,
                conv_form=self.form,
                conv_filters=self.filters,
                mask=mask,
            ),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=1, kernel=9, form="grid", filters="channel"),
    Size(height=1, width=1, mask=0.5),
    Size(height=1, width=2, kernel=9, heads=3, mask=0.9),
    Size(height=2, width=3, heads=3),
    Size(height=2, width=3, heads=3, prefix=1, filters="channel"),
    Size(height=3, width=2, heads=3, prefix=1, form="grid"),
    Size(height=5, width=2, heads=1, size=1, form="grid", filters="channel", kernel=5),
    Size(height=2, width=5, heads=3, size=5, form="grid", kernel=7, prefix=1, mask=1.0),
    Size(height=4, width=3, heads=3, kernel=1, mask=1.0),
    Size(height=4, width=3, heads=1, kernel=1, form="grid", mask=0.0),
    Size(height=3, width=3, heads=3, size=2, kernel=5, filters="channel", mask=1.2, bias=False),
    Size(height=1, width=7, heads=3, size=3, kernel=15, prefix=1, mask=1.1, embed=5),
]


def oracle(module: LinearAngularAttention, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definitions, image by image and head by head."""
    block, grid, weights = layer.block, layer.grid, dict(module.named_parameters())
    qkv = torch.nn.functional.linear(x, weights["qkv.weight"], weights.get("qkv.bias"))
    size, width = block.head_size, block.attention_width
    images = []
    for image in qkv:
        heads = []
        for head in range(block.num_heads):
            columns = slice(head * size, (head + 1) * size)
            q, k, v = (image[:, part * width :][:, columns] for part in range(3))
            y = reference.linear_angular(q, k, v)
            if block.mask is not None:
                threshold = min(1.0, block.mask.start_multiple / grid.num_tokens)
                y = y + reference.masked_softmax(q, k, v, threshold)
            y = torch.stack([reference.direction(row) for row in y])
            heads.append(y + oracle_convolution(weights["conv.weight"], layer, head, v))
        images.append(torch.cat(heads, dim=1))
    merged = torch.stack(images)
    return torch.nn.functional.linear(merged, weights["proj.weight"], weights["proj.bias"])


def oracle_convolution(weight: Tensor, layer: LayerShape, head: int, v: Tensor) -> Tensor:
    channels = []
    for channel in range(v.shape[1]):
        shared = layer.block.conv_filters == "head"
        taps = weight[head if shared else head * v.shape[1] + channel, 0]
        values = v[:, channel : channel + 1]
        if layer.block.conv_form == "tokens":
            channels.append(reference.token_convolution(values, taps[:, 0]))
        else:
            grid = layer.grid
            channels.append(
                reference.grid_convolution(values, taps, grid.height, grid.width, grid.num_prefix)
            )
    return torch.cat(channels, dim=1)


def built(layer: LayerShape, dtype: torch.dtype) -> LinearAngularAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = LinearAngularAttention(layer).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return module


compare = partial(compare_with_oracle, built, oracle)


BFLOAT16_TOLERANCE = 8 * torch.finfo(torch.bfloat16).eps
"""About a dozen roundings follow one another in the layer; errors partly cancel."""


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float64, 1e-12)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float32_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size.layer(), torch.float32, 200 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("size", [size for size in AWKWARD if size.mask is None], ids=str)
def test_bfloat16_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    # With a mask an entry within rounding of the threshold may fall on the other side.
    compare(size.layer(), torch.bfloat16, BFLOAT16_TOLERANCE)


@pytest.mark.parametrize("size", [size for size in AWKWARD if size.mask is not None], ids=str)
def test_bfloat16_with_the_branch_is_finite(size: Size) -> None:
    module = built(size.layer(), torch.bfloat16)
    x = random_input(size.layer(), torch.bfloat16).requires_grad_()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_comparison_notices_a_wrong_definition(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    layer = Size(height=2, width=3, heads=3, prefix=1).layer()
    right = reference.linear_angular
    monkeypatch.setattr(reference, "linear_angular", lambda q, k, v: right(q, k, v) + 0.5 * v)
    with pytest.raises(AssertionError):
        compare(layer, dtype, BFLOAT16_TOLERANCE)


def test_the_branch_counts_in_the_oracle_comparison() -> None:
    alive = Size(height=3, width=3, heads=3, mask=1.0).layer()
    without = Size(height=3, width=3, heads=3).layer()
    x = random_input(alive, torch.float64)
    outputs = [oracle(built(layer, torch.float64), layer, x) for layer in (alive, without)]
    assert relative_error(*outputs) > 1e-2


@pytest.mark.parametrize("name", ["plain", "auxiliary"])
def test_equals_the_vectors_recorded_from_the_released_module(name: str) -> None:
    with np.load(VECTORS / f"linear_angular_{name}.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files}
    meta = json.loads(str(arrays.pop("meta")))
    side = math.isqrt(meta["tokens"])
    mask = None
    if meta["auxiliary"]:
        multiple = meta["mask_threshold"] * meta["tokens"]
        mask = MaskSchedule(shape="constant", start_multiple=multiple)
    block = BlockConfig(
        num_heads=meta["num_heads"],
        head_size=meta["dim"] // meta["num_heads"],
        conv_kernel=meta["kernel_size"],
        mask=mask,
    )
    grid = TokenGrid(height=side, width=side)
    layer = LayerShape(block=block, embed_width=meta["dim"], grid=grid, qkv_bias=meta["qkv_bias"])
    module = LinearAngularAttention(layer)
    weights = {
        key.removeprefix("param.").replace("dconv", "conv"): torch.from_numpy(value)
        for key, value in arrays.items()
        if key.startswith("param.")
    }
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected
    assert missing == (["auxiliary.progress"] if meta["auxiliary"] else [])
    output = module(torch.from_numpy(arrays["in.x"]))
    torch.testing.assert_close(output, torch.from_numpy(arrays["out"]), rtol=1e-5, atol=1e-5)
    if meta["auxiliary"]:
        module.auxiliary.threshold = 1.0
        assert (module(torch.from_numpy(arrays["in.x"])) - output).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", [None, 1.0])
def test_zero_rows_give_numbers_and_gradients_never_nan(
    dtype: torch.dtype, mask: float | None
) -> None:
    layer = Size(height=2, width=3, heads=3, prefix=1, mask=mask, bias=False).layer()
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
            assert relative_error(tensor, exact[name]) < 1e-12, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [1e-8, 1.0, 1e18])
def test_normalized_rows_have_length_one_at_any_magnitude(
    dtype: torch.dtype, magnitude: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = (torch.randn(64, 5, generator=generator) * magnitude).to(dtype)
    length = normalize_rows(rows).double().norm(dim=-1)
    assert (length - 1.0).abs().max() < 2 * torch.finfo(dtype).eps


def test_normalized_rows_of_zero_are_zero_and_pass_no_gradient() -> None:
    rows = torch.zeros(2, 3, requires_grad=True)
    normalized = normalize_rows(rows)
    normalized.sum().backward()
    assert not normalized.any()
    assert rows.grad is not None
    assert not rows.grad.any()


def test_an_empty_mask_skips_the_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("castling.kernels.linear_angular.kernel", lambda *_: None)  # has it inside
    layer = Size(height=2, width=3, mask=6.0).layer()
    module = built(layer, torch.float32)
    calls = []
    module.auxiliary.register_forward_hook(lambda *_: calls.append(1))
    x = random_input(layer, torch.float32)
    module(x)
    assert calls == []
    module.auxiliary.threshold = 0.5
    module(x)
    assert calls == [1]


def test_a_layer_without_a_schedule_has_no_branch() -> None:
    layer = Size(height=2, width=2).layer()
    module = OPERATORS["linear_angular"].build(layer)
    assert set(module.state_dict()) == {
        "qkv.weight", "qkv.bias", "conv.weight", "proj.weight", "proj.bias",
    }  # fmt: skip
