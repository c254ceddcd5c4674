import math
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from oracle_comparison import random_input, relative_error, values_and_gradients
from torch import Tensor, nn

from castling.blocks.mlp import MLPS, gate_width, hidden_width
from castling.blocks.modules.mlp import BidimensionalMlp
from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.build import build
from castling.operators import TokenGrid
from castling.operators.spec import LayerShape
from space.cost import cost
from space.measure import measure_macs, measure_params


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer."""

    height: int
    width: int
    prefix: int = 0
    embed: int = 8
    ratio: float = 2.0

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        return f"{tokens}x{self.embed}-ratio{self.ratio}"

    def layer(self) -> LayerShape:
        return LayerShape(
            block=BlockConfig(mlp_ratio=self.ratio),
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=1, prefix=1, embed=4),
    Size(height=2, width=3, embed=9, ratio=0.5),
    Size(height=3, width=1, prefix=1, embed=3, ratio=0.1),
    Size(height=1, width=5, embed=7, ratio=3.3),
]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def sigmoid(x: Tensor) -> Tensor:
    return 1.0 / (1.0 + torch.exp(-x))


def oracle(module: BidimensionalMlp, x: Tensor) -> Tensor:
    """Compute one image (token, channel) by definition, token by token."""
    weights = dict(module.named_parameters())

    def linear(name: str, row: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ row + weights[f"{name}.bias"]

    ys, zs = [], []
    for row in x:
        y = linear("mlp.fc2", gelu(linear("mlp.fc1", row)))
        centered = y - y.sum() / len(y)
        deviation = ((centered * centered).sum() / len(y) + 1e-6).sqrt()
        ys.append(y)
        zs.append(centered / deviation * weights["norm_gate.weight"] + weights["norm_gate.bias"])
    whole = gelu(linear("global_reduce", torch.stack(zs).sum(dim=0) / len(zs)))
    channel = sigmoid(linear("channel_select", whole))
    rows = []
    for y, z in zip(ys, zs, strict=True):
        both = torch.cat([gelu(linear("local_reduce", z)), whole])
        rows.append(y * channel * sigmoid(linear("spatial_select", both)))
    return torch.stack(rows)


def built(layer: LayerShape, dtype: torch.dtype) -> BidimensionalMlp:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = BidimensionalMlp(layer).to(dtype)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.7)
    return module


def both(layer: LayerShape, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what the module gives in `dtype`, and the oracle in float64 on the same numbers."""
    module, exact = built(layer, dtype), built(layer, dtype).double()
    x = random_input(layer, dtype).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    got = values_and_gradients(module(x), x, module)
    for name, tensor in got.items():
        assert tensor.dtype == dtype, name
        assert torch.isfinite(tensor).all(), name
    output = torch.stack([oracle(exact, image) for image in exact_x])
    return got, values_and_gradients(output, exact_x, exact)


def together(tensors: dict[str, Tensor]) -> Tensor:
    """Return all gradients as one vector."""
    gradients = [tensor for name, tensor in tensors.items() if name != "output"]
    return torch.cat([gradient.double().flatten() for gradient in gradients])


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bidimensional_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    got, expected = both(size.layer(), torch.float64)
    for name, tensor in got.items():
        assert relative_error(tensor, expected[name]) < 1e-12, name


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bidimensional_in_float32_equals_the_oracle(size: Size) -> None:
    got, expected = both(size.layer(), torch.float32)
    assert relative_error(got["output"], expected["output"]) < 1e-5
    for name, tensor in got.items():
        assert relative_error(tensor, expected[name]) < 200 * torch.finfo(torch.float32).eps, name


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bidimensional_in_bfloat16_is_near_the_oracle(size: Size) -> None:
    """Gradients as one vector: a small one is a difference of large ones, each rounded."""
    got, expected = both(size.layer(), torch.bfloat16)
    tolerance = 8 * torch.finfo(torch.bfloat16).eps
    assert relative_error(got["output"], expected["output"]) < tolerance
    exact = together(expected)
    assert (together(got) - exact).norm() < tolerance * exact.norm()


def test_plain_is_two_linear_layers_with_a_gelu_between() -> None:
    layer = Size(height=2, width=3, embed=5, ratio=1.7).layer()
    module = MLPS["plain"].build(layer)
    weights = dict(module.named_parameters())
    x = random_input(layer, torch.float32)
    hidden = gelu(F.linear(x, weights["fc1.weight"], weights["fc1.bias"]))
    expected = F.linear(hidden, weights["fc2.weight"], weights["fc2.bias"])
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
@pytest.mark.parametrize("name", list(MLPS))
def test_closed_forms_are_what_is_counted(name: str, size: Size) -> None:
    layer, spec = size.layer(), MLPS[name]
    module = spec.build(layer)
    assert spec.macs(layer) == measure_macs(module, (layer.grid.num_tokens, layer.embed_width))
    assert spec.params(layer) == measure_params(module)


@pytest.mark.parametrize(("embed", "gates"), [(1, 1), (3, 1), (8, 2), (11, 2), (192, 48)])
def test_the_gates_have_a_quarter_of_the_channels(embed: int, gates: int) -> None:
    layer = Size(height=1, width=1, embed=embed).layer()
    assert gate_width(layer) == gates
    module = BidimensionalMlp(layer)
    assert module.global_reduce.weight.shape == (gates, embed)
    assert module.local_reduce.weight.shape == (gates, embed)


@pytest.mark.parametrize(("embed", "ratio", "hidden"), [(8, 2.0, 16), (3, 0.1, 1), (7, 3.3, 23)])
def test_the_hidden_width_is_a_whole_number_of_at_least_one(
    embed: int, ratio: float, hidden: int
) -> None:
    layer = Size(height=1, width=1, embed=embed, ratio=ratio).layer()
    assert hidden_width(layer) == hidden


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_gates_lie_between_zero_and_one(size: Size) -> None:
    layer = size.layer()
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64)
    gates = module(x) / module.mlp(x)
    assert gates.min() > 0.0
    assert gates.max() < 1.0


def test_the_gate_of_a_token_and_channel_is_a_product_of_both() -> None:
    """Of rank one for each image: one number per token times one per channel."""
    layer = Size(height=2, width=3).layer()
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64)
    gates = module(x) / module.mlp(x)
    product = gates[:, :, :1] * gates[:, :1] / gates[:, :1, :1]
    torch.testing.assert_close(gates, product, rtol=1e-9, atol=0.0)
    assert gates[:, :, 0].std() > 1e-3
    assert gates[:, 0].std() > 1e-3


def test_gates_carry_other_tokens_and_plain_does_not() -> None:
    layer = Size(height=2, width=3).layer()
    x = random_input(layer, torch.float32)
    other = x.clone()
    other[:, -1] += 1.0
    reached = {}
    for name, spec in MLPS.items():
        module = spec.build(layer).eval()
        reached[name] = bool(((module(other) - module(x))[:, 0].abs() > 1e-7).any())
    assert reached == {"plain": False, "bidimensional": True, "shrinking": False}


def test_images_of_a_batch_do_not_mix() -> None:
    layer = Size(height=2, width=3).layer()
    module = built(layer, torch.float64)
    x = random_input(layer, torch.float64, batch=3)
    alone = torch.cat([module(image[None]) for image in x])
    torch.testing.assert_close(module(x), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_model_with_the_gates_trains_a_step(pooling: Literal["mean", "cls"]) -> None:
    blocks = (BlockConfig(mlp="bidimensional", mlp_ratio=2.0), BlockConfig())
    config = ModelConfig(pooling=pooling, embed_width=16, blocks=blocks)
    model = build(config, seed=0)
    assert isinstance(model.blocks[0].mlp, BidimensionalMlp)
    assert not isinstance(model.blocks[1].mlp, BidimensionalMlp)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    labels = torch.arange(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = F.cross_entropy(model(images), labels)
    before.backward()
    for key, parameter in model.blocks[0].mlp.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
    optimizer.step()
    assert F.cross_entropy(model(images), labels) < before


def test_the_cost_of_a_model_counts_the_gates() -> None:
    config = ModelConfig(blocks=(BlockConfig(mlp="bidimensional", mask=None),) * 2)
    model = build(config, seed=0)
    total = cost(config)
    assert total.macs == measure_macs(model, (config.channels, *config.image_size))
    assert total.params == measure_params(model)
    plain = cost(config.replace(blocks=(BlockConfig(mask=None),) * 2))
    assert total.macs > plain.macs
    assert total.params > plain.params


def test_an_unknown_mlp_is_refused() -> None:
    with pytest.raises(ConfigError, match="mlp: must be 'plain', 'bidimensional' or 'shrinking'"):
        BlockConfig(mlp="gated")  # type: ignore[arg-type]
