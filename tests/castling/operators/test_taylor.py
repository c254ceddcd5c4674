from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_comparison import compare_with_oracle, random_input, values_and_gradients
from torch import Tensor
from torch.nn.functional import linear

from castling.config import BlockConfig, MaskSchedule, ModelConfig
from castling.model.build import build
from castling.model.castle import castle, is_castled, set_progress
from castling.operators import TokenGrid
from castling.operators.modules.taylor import TaylorAttention, taylor
from castling.operators.reference import linear_angular as branch_reference, taylor as reference
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
    mask: float | None = None
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        mask = "" if self.mask is None else f"-mask{self.mask}"
        return f"{tokens}-h{self.heads}x{self.size}{mask}"

    def layer(self) -> LayerShape:
        mask = None
        if self.mask is not None:
            mask = MaskSchedule(shape="constant", start_multiple=self.mask)
        return LayerShape(
            block=BlockConfig(
                operator="taylor", num_heads=self.heads, head_size=self.size, mask=mask
            ),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=1, mask=0.5),
    Size(height=1, width=2, heads=3, mask=0.9),
    Size(height=2, width=3, heads=3, bias=False),
    Size(height=2, width=3, heads=3, prefix=1),
    Size(height=5, width=2, size=1),
    Size(height=2, width=5, heads=3, size=5, prefix=1, mask=1.0),
    Size(height=3, width=3, heads=3, size=2, mask=1.2, bias=False),
    Size(height=1, width=7, heads=3, size=3, prefix=1, mask=1.1, embed=5),
]
WITHOUT_BRANCH = [size for size in AWKWARD if size.mask is None]
WITH_BRANCH = [size for size in AWKWARD if size.mask is not None]


def oracle(module: TaylorAttention, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definitions, image by image and head by head."""
    block, weights = layer.block, dict(module.named_parameters())
    size, width = block.head_size, block.attention_width
    images = []
    for image in linear(x, weights["qkv.weight"], weights.get("qkv.bias")):
        heads = []
        for start in range(0, width, size):
            q, k, v = (image[:, part * width + start :][:, :size] for part in range(3))
            y = reference.taylor(q, k, v)
            if block.mask is not None:
                threshold = min(1.0, block.mask.start_multiple / layer.grid.num_tokens)
                y = y + branch_reference.masked_softmax(q, k, v, threshold)
            heads.append(y)
        images.append(torch.cat(heads, dim=1))
    return linear(torch.stack(images), weights["proj.weight"], weights["proj.bias"])


def built(layer: LayerShape, dtype: torch.dtype) -> TaylorAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = TaylorAttention(layer).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return module


def compare(layer: LayerShape, dtype: torch.dtype, tolerance: float) -> None:
    """Compare the module in `dtype` with the oracle in float64 on the same rounded numbers."""
    compare_with_oracle(built, oracle, layer, dtype, tolerance)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_the_oracle_in_values_and_gradients(
    size: Size, dtype: torch.dtype, tolerance: float
) -> None:
    compare(size.layer(), dtype, tolerance)


@pytest.mark.parametrize("size", WITHOUT_BRANCH, ids=str)
def test_bfloat16_is_near_the_oracle_in_values_and_gradients(size: Size) -> None:
    # With a mask an entry within rounding of the threshold may fall on the other side.
    compare(size.layer(), torch.bfloat16, 8 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("size", WITH_BRANCH, ids=str)
def test_bfloat16_with_the_branch_is_finite(size: Size) -> None:
    module = built(size.layer(), torch.bfloat16)
    x = random_input(size.layer(), torch.bfloat16).requires_grad_()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("change", ["taylor", "branch"])
def test_the_comparison_notices_a_wrong_definition(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    layer = Size(height=2, width=3, heads=3, prefix=1, mask=1.0).layer()
    if change == "taylor":
        right = reference.taylor
        monkeypatch.setattr(reference, "taylor", lambda q, k, v: right(q, 1.1 * k, v))
    else:
        masked = branch_reference.masked_softmax
        monkeypatch.setattr(
            branch_reference, "masked_softmax", lambda q, k, v, eps: masked(q, k, v, 1.5 * eps)
        )
    with pytest.raises(AssertionError):
        compare(layer, torch.float64, 1e-2)


def test_equals_the_vector_of_the_published_formula() -> None:
    with np.load(VECTORS / "taylor.npz") as recorded:
        q, k, v, out = (
            torch.from_numpy(recorded[name]) for name in ("in.q", "in.k", "in.v", "out")
        )
    torch.testing.assert_close(taylor(q, k, v, None), out, rtol=1e-9, atol=1e-12)


def qkv_of(layer: LayerShape) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (2, layer.block.num_heads, layer.grid.num_tokens, layer.block.head_size)
    q, k, v = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return q, k, v


def test_is_softmax_attention_to_first_order() -> None:
    layer = Size(height=3, width=3, heads=3).layer()
    q, k, v = qkv_of(layer)
    errors = []
    for scale in (1e-2, 5e-3):
        exact = torch.nn.functional.scaled_dot_product_attention(scale * q, k, v)
        errors.append((taylor(scale * q, k, v, None) - exact).abs().max())
    assert errors[0] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)  # the error is of second order


def test_weights_sum_to_one_and_a_common_shift_of_the_keys_changes_nothing() -> None:
    layer = Size(height=3, width=3, heads=3).layer()
    q, k, v = qkv_of(layer)
    constant = v[:, :, :1].expand_as(v)
    torch.testing.assert_close(taylor(q, k, constant, None), constant)
    torch.testing.assert_close(taylor(q, k + 3.0, v, None), taylor(q, k, v, None))


def test_an_empty_mask_skips_the_branch() -> None:
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


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_castling_drops_the_branch_and_an_empty_one_changes_nothing(pooling: str) -> None:
    block = BlockConfig(operator="taylor", num_heads=2, head_size=4)
    config = ModelConfig(image_size=4, embed_width=8, pooling=pooling, blocks=(block, block))
    model = build(config, seed=0).eval()
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert not is_castled(model)
    assert is_castled(castle(model))
    assert (castle(model)(images) - model(images)).abs().max() > 1e-4
    set_progress(model, 1.0)
    assert torch.equal(castle(model)(images), model(images))
