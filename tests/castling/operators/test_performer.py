from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_comparison import compare_with_oracle, random_input, values_and_gradients
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.build import build
from castling.model.castle import castle
from castling.model.check import check_layer
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.performer import PerformerAttention, orthogonal_rows, performer
from castling.operators.reference import performer as reference
from castling.operators.spec import LayerShape
from space.measure import measure_macs


VECTORS = Path(__file__).parents[2] / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer."""

    height: int
    width: int
    prefix: int = 0
    heads: int = 1
    size: int = 4
    features: int = 0
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        return f"{tokens}-h{self.heads}x{self.size}-m{self.features}"

    def layer(self) -> LayerShape:
        return LayerShape(
            block=BlockConfig(
                operator="performer",
                num_heads=self.heads,
                head_size=self.size,
                options={"num_features": self.features},
            ),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=2, heads=3, features=1),
    Size(height=2, width=3, heads=3, bias=False),
    Size(height=2, width=3, heads=3, prefix=1, features=7),
    Size(height=5, width=2, size=1),
    Size(height=2, width=3, heads=3, size=5, prefix=1),
    Size(height=1, width=7, heads=3, size=3, features=4, prefix=1, embed=5),
]


def oracle(module: PerformerAttention, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definition, image by image."""
    weights = dict(module.named_parameters())
    heads, size = layer.block.num_heads, layer.block.head_size
    images = []
    for image in linear(x, weights["qkv.weight"], weights.get("qkv.bias")):
        q, k, v = (
            torch.stack(part.split(size, dim=1)) for part in image.split(heads * size, dim=1)
        )
        images.append(torch.cat(list(reference.performer(q, k, v, module.projection)), dim=1))
    return linear(torch.stack(images), weights["proj.weight"], weights["proj.bias"])


def built(layer: LayerShape, dtype: torch.dtype) -> PerformerAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = PerformerAttention(layer).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return module


def compare(layer: LayerShape, dtype: torch.dtype, tolerance: float) -> None:
    """Compare the module in `dtype` with the oracle in float64 on the same rounded numbers."""
    compare_with_oracle(built, oracle, layer, dtype, tolerance)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-9),
        (torch.float32, 1e-5),
        (torch.bfloat16, 8 * torch.finfo(torch.bfloat16).eps),
    ],
)
def test_equals_the_oracle_in_values_and_gradients(
    size: Size, dtype: torch.dtype, tolerance: float
) -> None:
    compare(size.layer(), dtype, tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_comparison_notices_a_wrong_definition(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    right = reference.features
    monkeypatch.setattr(reference, "features", lambda x, w, largest: right(x, 1.5 * w, largest))
    with pytest.raises(AssertionError):
        compare(Size(height=2, width=3, heads=3, prefix=1).layer(), dtype, 0.0625)


def test_equals_the_vector_recorded_from_the_released_module() -> None:
    with np.load(VECTORS / "performer.npz") as recorded:
        arrays = {key: torch.from_numpy(recorded[key]) for key in recorded.files if key != "meta"}
    module = PerformerAttention(Size(height=5, width=8, heads=3, size=16).layer())
    assert module.projection.shape == arrays["in.projection"].shape
    module.projection.copy_(arrays["in.projection"])
    # The release has one maximum for the keys of a batch, ours one per image: as heads of a
    # single image its two images share one.
    q, k, v, out = (arrays[name].flatten(0, 1)[None] for name in ("in.q", "in.k", "in.v", "out"))
    mixed = performer(q, k, v, module.projection)
    torch.testing.assert_close(mixed, out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "features", "rows"), [(1, 0, 1), (2, 0, 1), (4, 0, 5), (16, 0, 44), (16, 3, 3)]
)
def test_the_number_of_features_is_d_ln_d_unless_given(
    size: int, features: int, rows: int
) -> None:
    layer = Size(height=2, width=2, size=size, features=features).layer()
    module = PerformerAttention(layer)
    assert module.projection.shape == (rows, size)
    assert measure_macs(module, (4, 6)) == OPERATORS["performer"].macs(layer)
    assert 4 * 4 * 6 * size + 4 * 4 * size * rows + 4 * rows == OPERATORS["performer"].macs(layer)


def test_a_negative_number_of_features_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"options\.num_features.* must be greater"):
        check_layer(BlockConfig(operator="performer", options={"num_features": -1}))


def test_rows_are_orthogonal_within_blocks_and_as_long_as_gaussian_rows() -> None:
    torch.manual_seed(0)
    size = 8
    rows = torch.stack([orthogonal_rows(20, size) for _ in range(400)])
    for start in (0, 8, 16):
        block = torch.nn.functional.normalize(rows[:, start : start + size], dim=-1)
        expected = torch.eye(block.shape[1]).expand(400, -1, -1)
        torch.testing.assert_close(block @ block.transpose(1, 2), expected, rtol=0.0, atol=1e-5)
    squared = rows.square().sum(-1)
    assert squared.mean() == pytest.approx(size, rel=0.02)
    assert squared.var() == pytest.approx(2 * size, rel=0.06)
    assert rows.mean(dim=(0, 1)).abs().max() < 0.05  # no direction is preferred
    second_moment = torch.einsum("nri,nrj->ij", rows, rows) / (400 * 20)
    torch.testing.assert_close(second_moment, torch.eye(size), rtol=0.0, atol=0.06)


def test_many_features_estimate_softmax_attention() -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = 0.7 * torch.randn(3, 2, 3, 9, 4, generator=generator, dtype=torch.float64)
    exact = scaled_dot_product_attention(q, k, v)
    errors = []
    for features in (16, 4096):
        layer = Size(height=3, width=3, heads=3, features=features).layer()
        estimate = performer(q, k, v, built(layer, torch.float64).projection)
        errors.append((estimate - exact).square().mean().sqrt())
    assert errors[1] < 0.015
    assert errors[0] > 4.0 * errors[1]


def test_the_projection_is_saved_drawn_by_the_seed_and_never_trained() -> None:
    block = BlockConfig(operator="performer", num_heads=2, head_size=4)
    config = ModelConfig(image_size=4, embed_width=8, blocks=(block,))
    name = "blocks.0.attn.projection"
    model = build(config, seed=3)
    assert name not in dict(model.named_parameters())
    weights = model.state_dict()
    assert torch.equal(weights[name], build(config, seed=3).state_dict()[name])
    other = build(config, seed=4)
    assert not torch.equal(weights[name], other.state_dict()[name])
    other.load_state_dict(weights)
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(other(images), model(images))
    assert torch.equal(castle(model)(images), model.eval()(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("magnitude", [0.0, 1e-8, 1e2, 1e4])
def test_no_magnitude_gives_anything_but_numbers(dtype: torch.dtype, magnitude: float) -> None:
    layer = Size(height=2, width=3, heads=3, prefix=1, bias=False).layer()
    module = built(layer, dtype)
    x = (random_input(layer, dtype) * magnitude).requires_grad_()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name
