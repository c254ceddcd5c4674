import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.check import check, check_layer
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.vicinity import VicinityAttention, clamp_magnitude
from castling.operators.reference import vicinity as reference
from castling.operators.spec import LayerShape


VECTORS = Path(__file__).parents[2] / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer; what multiplies the input or weights makes the clamps act."""

    height: int
    width: int
    heads: int = 1
    size: int = 4
    reduction: int = 2
    bias: bool = True
    embed: int = 6
    scale: float = 1.0
    """Factor of the input."""
    values: float = 1.0
    """Factor of the value projection."""
    gain: float = 1.0
    """Factor of the output projection."""

    def __str__(self) -> str:
        """The name of the test."""
        head = f"{self.height}x{self.width}-h{self.heads}x{self.size}"
        factors = f"x{self.scale:g}-v{self.values:g}-out{self.gain:g}"
        return f"{head}-se{self.reduction}-{factors}"

    def layer(self) -> LayerShape:
        return LayerShape(
            block=BlockConfig(
                operator="vicinity",
                num_heads=self.heads,
                head_size=self.size,
                options={"se_reduction": self.reduction},
            ),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=2, heads=3, reduction=1),
    Size(height=2, width=3, heads=3, bias=False),
    Size(height=3, width=2, heads=3, size=5, reduction=4),
    Size(height=5, width=2, size=1, reduction=100),
    Size(height=1, width=7, heads=3, size=3, embed=5),
]
CLAMPED = [
    Size(height=2, width=3, heads=3, bias=False, scale=2e-3),
    Size(height=3, width=2, heads=3, size=2, bias=False, scale=1e-2),
    Size(height=2, width=2, heads=3, size=2, bias=False, scale=1e2),
    Size(height=2, width=2, heads=3, bias=False, scale=2.0, values=1e-5),
    Size(height=2, width=3, heads=3, gain=1e-4),
    Size(height=3, width=2, heads=3, gain=1e4),
]


def oracle(module: VicinityAttention, layer: LayerShape, x: Tensor) -> Tensor:
    """Compute the layer from the literal definition, image by image and head by head."""
    block, grid, weights = layer.block, layer.grid, dict(module.named_parameters())
    size, width = block.head_size, block.attention_width
    images = []
    for image in x:
        qkv = linear(image, weights["qkv.weight"], weights.get("qkv.bias"))
        heads = []
        for start in range(0, width, size):
            q, k, v = (qkv[:, part * width + start :][:, :size] for part in range(3))
            heads.append(reference.vicinity(q, k, v, grid.height, grid.width))
        y = linear(torch.cat(heads, dim=1), weights["proj.weight"], weights["proj.bias"])
        y = reference.clamp_all(y)
        gate = reference.gate(image, weights["gate.fc1.weight"], weights["gate.fc2.weight"])
        images.append(reference.clamp_all(y + y * gate))
    return torch.stack(images)


@torch.no_grad()
def built(size: Size, dtype: torch.dtype) -> VicinityAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = VicinityAttention(size.layer()).to(dtype)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    module.qkv.weight[2 * size.heads * size.size :] *= size.values
    for parameter in module.proj.parameters():
        parameter.mul_(size.gain)
    return module


def random_input(size: Size, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    shape = (2, size.height * size.width, size.embed)
    return size.scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def values_and_gradients(
    output: Tensor, x: Tensor, module: VicinityAttention
) -> dict[str, Tensor]:
    """Return the output and the gradients of a random projection of it."""
    generator = torch.Generator().manual_seed(13)
    probe = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    names, parameters = zip(*module.named_parameters(), strict=True)
    total = (output * probe).sum()
    gradients = torch.autograd.grad(total, [x, *parameters], materialize_grads=True)
    return {"output": output.detach(), **dict(zip(("input", *names), gradients, strict=True))}


def compare(size: Size, dtype: torch.dtype, tolerance: float) -> None:
    """Compare the module in `dtype` with the oracle in float64 on the same rounded numbers."""
    module = built(size, dtype)
    x = random_input(size, dtype).requires_grad_()
    exact_module = built(size, dtype).double()
    exact_x = x.detach().double().requires_grad_()
    got = values_and_gradients(module(x), x, module)
    expected = values_and_gradients(
        oracle(exact_module, size.layer(), exact_x), exact_x, exact_module
    )
    for name, tensor in got.items():
        assert tensor.dtype == dtype, name
        assert torch.isfinite(tensor).all(), name
        error = (tensor.double() - expected[name]).abs().max()
        assert error < tolerance * expected[name].abs().max().clamp_min(1e-3), name


@pytest.mark.parametrize("size", AWKWARD + CLAMPED, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size, torch.float64, 1e-9)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 200 * torch.finfo(torch.float32).eps),
        (torch.bfloat16, 8 * torch.finfo(torch.bfloat16).eps),
    ],
)
def test_lower_precision_is_near_the_oracle_in_values_and_gradients(
    size: Size, dtype: torch.dtype, tolerance: float
) -> None:
    # Where the clamps act, a number within rounding of a bound may fall on the other side.
    compare(size, dtype, tolerance)


@pytest.mark.parametrize("name", ["placed", "clamp_all", "gate"])
def test_the_comparison_notices_a_wrong_definition(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = getattr(reference, name)
    monkeypatch.setattr(reference, name, lambda first, *rest: 1.2 * right(first, *rest))
    with pytest.raises(AssertionError):
        compare(CLAMPED[0], torch.float64, 1e-2)


@pytest.mark.parametrize("clamp", range(6))
def test_every_clamp_counts_in_the_comparison(monkeypatch: pytest.MonkeyPatch, clamp: int) -> None:
    """Leaving out any one of the six clamps of the release changes the output of some layer."""
    changes = []
    for size in CLAMPED:
        module, x = built(size, torch.float64), random_input(size, torch.float64)
        expected = module(x)
        calls = iter(range(6))
        with monkeypatch.context() as patch:
            patch.setattr(
                "castling.operators.modules.vicinity.clamp_magnitude",
                lambda y, calls=calls: y if next(calls) == clamp else clamp_magnitude(y),
            )
            changes.append((module(x) - expected).abs().max() / expected.abs().max())
        assert next(calls, None) is None
    assert max(changes) > 1e-6


@pytest.mark.parametrize("name", ["vicinity", "vicinity_reduced"])
def test_equals_the_vectors_recorded_from_the_released_module(name: str) -> None:
    with np.load(VECTORS / f"{name}.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files}
    meta = json.loads(str(arrays.pop("meta")))
    weights = {key: torch.from_numpy(value) for key, value in arrays.items()}
    heads = meta["num_heads"]
    layer = LayerShape(
        block=BlockConfig(
            operator="vicinity",
            num_heads=heads,
            head_size=meta["dim"] // meta["feature_reduction"] // heads,
            options={"se_reduction": meta["se_reduction"]},
        ),
        embed_width=meta["dim"],
        grid=TokenGrid(height=meta["height"], width=meta["width"]),
    )
    module = VicinityAttention(layer)
    module.load_state_dict(
        {
            **{
                f"qkv.{part}": torch.cat([weights[f"param.{p}_proj.{part}"] for p in "qkv"])
                for part in ("weight", "bias")
            },
            "proj.weight": weights["param.out_proj.weight"],
            "proj.bias": weights["param.out_proj.bias"],
            "gate.fc1.weight": weights["param.se_fc.0.weight"],
            "gate.fc2.weight": weights["param.se_fc.2.weight"],
        }
    )
    torch.testing.assert_close(module(weights["in.x"]), weights["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 2)])
def test_equals_its_quadratic_form_where_no_clamp_acts(height: int, width: int) -> None:
    size = Size(height=height, width=width)
    generator = torch.Generator().manual_seed(3)
    shape = (2, 1, height * width, 4)
    q, k, v = 1.0 + 0.3 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    mixed = built(size, torch.float64)._mix(q.relu(), k.relu(), v)
    for image in range(2):
        expected = reference.quadratic(q[image, 0], k[image, 0], v[image, 0], height, width)
        torch.testing.assert_close(mixed[image, 0], expected, rtol=1e-9, atol=1e-12)


def test_nearer_tokens_weigh_more() -> None:
    height, width = 4, 6
    module = built(Size(height=height, width=width, size=1), torch.float64)
    ones = torch.ones(1, 1, height * width, 1, dtype=torch.float64)
    weights = []
    for column in range(width):
        value = torch.zeros_like(ones)
        value[0, 0, 2 * width + column] = 1.0
        weights.append(module._mix(ones, ones, value)[0, 0, 2 * width + 1].item())
    assert weights[0] == pytest.approx(weights[2])
    assert weights[1] > weights[2] > weights[3] > weights[4] > weights[5]


def test_magnitudes_are_clamped_with_their_sign_and_zeros_stay() -> None:
    x = torch.tensor([0.0, 1e-9, -1e-9, 0.5, -2.0, 1e9, -1e9], requires_grad=True)
    clamped = clamp_magnitude(x)
    assert clamped.tolist() == pytest.approx([0.0, 1e-4, -1e-4, 0.5, -2.0, 1e4, -1e4])
    clamped.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_queries_and_keys_that_relu_empties_give_numbers_never_nan(dtype: torch.dtype) -> None:
    size = Size(height=2, width=3, heads=3, bias=False)
    module = built(size, dtype)
    x = random_input(size, dtype)
    x[:, 2] = 0.0
    x[1] = 0.0
    x.requires_grad_()
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name


def test_a_class_token_is_refused_in_one_sentence() -> None:
    block = BlockConfig(operator="vicinity")
    check(ModelConfig(pooling="mean", blocks=(block,)))
    with pytest.raises(ConfigError, match=r"blocks\.0\.operator.* must be .*class token") as error:
        check(ModelConfig(pooling="cls", blocks=(block,)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("reduction", "hidden"), [(1, 6), (2, 3), (4, 1), (100, 1)])
def test_the_gate_has_a_hidden_width_of_at_least_one(reduction: int, hidden: int) -> None:
    layer = Size(height=1, width=2, reduction=reduction).layer()
    module = VicinityAttention(layer)
    assert module.gate.fc1.weight.shape == (hidden, 6)
    costs = OPERATORS["vicinity"]
    assert costs.params(layer) == sum(weight.numel() for weight in module.parameters())
    core = 4 * 2 * 6 * 4 + 8 * 2 * 4 * 4 + 4 * 2 * 4
    assert costs.macs(layer) == core + 2 * 6 * hidden


def test_no_reduction_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"options\.se_reduction.* must be greater"):
        check_layer(BlockConfig(operator="vicinity", options={"se_reduction": 0}))
