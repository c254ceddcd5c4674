from dataclasses import dataclass

import pytest
import torch
from oracle_comparison import values_and_gradients
from torch import Tensor

from castling.config import BlockConfig, ModelConfig
from castling.errors import ConfigError
from castling.model.check import check, check_layer
from castling.operators import OPERATORS, TokenGrid
from castling.operators.modules.gvt import GraphAttention
from castling.operators.reference import gvt as reference
from castling.operators.spec import LayerShape
from space.measure import measure_macs


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One awkward layer."""

    height: int
    width: int
    prefix: int = 0
    heads: int = 1
    size: int = 4
    pool: int = 1
    bias: bool = True
    embed: int = 6

    def __str__(self) -> str:
        """The name of the test."""
        tokens = f"{self.height}x{self.width}" + ("+cls" if self.prefix else "")
        return f"{tokens}-h{self.heads}x{self.size}-pool{self.pool}" + "-bias" * self.bias

    def layer(self) -> LayerShape:
        block = BlockConfig(
            operator="gvt",
            num_heads=self.heads,
            head_size=self.size,
            options={"pool": self.pool},
        )
        return LayerShape(
            block=block,
            embed_width=self.embed,
            grid=TokenGrid(height=self.height, width=self.width, num_prefix=self.prefix),
            qkv_bias=self.bias,
        )


AWKWARD = [
    Size(height=1, width=1),
    Size(height=1, width=1, prefix=1, heads=3),
    Size(height=1, width=5, heads=3, size=1, bias=False),
    Size(height=2, width=3, heads=3, prefix=1, embed=2),
    Size(height=5, width=3, heads=1, size=5, embed=7),
    Size(height=4, width=6, heads=3, pool=2, size=3),
    Size(height=6, width=3, heads=3, pool=3, prefix=1, bias=False),
    Size(height=2, width=2, heads=2, pool=2),
]


def built(size: Size, dtype: torch.dtype) -> GraphAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        module = GraphAttention(size.layer())
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return module.to(dtype)


def random_input(size: Size, dtype: torch.dtype, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    shape = (batch, size.layer().grid.num_tokens, size.embed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def oracle(module: GraphAttention, size: Size, x: Tensor) -> Tensor:
    """Compute the layer from the literal definitions, image by image and head by head."""
    grid = (size.height, size.width)
    images = []
    for image in x:
        graph = reference.adjacency(image, size.width, size.prefix)
        near = reference.graph_convolution(graph, image)
        few = reference.pooled(near, grid, size.prefix, size.pool)
        q = torch.stack([module.q(token) for token in near])
        k = torch.stack([module.k(token) for token in few])
        v = module.v(reference.pooled(image, grid, size.prefix, size.pool))
        columns = [slice(h * size.size, (h + 1) * size.size) for h in range(size.heads)]
        attentions = [reference.attention(q[:, head], k[:, head]) for head in columns]
        heads = [
            reference.talk(attentions, module.talk, index) @ v[:, head]
            for index, head in enumerate(columns)
        ]
        images.append(module.proj(torch.cat(heads, dim=1)))
    return torch.stack(images)


def compare(size: Size, x: Tensor, tolerance: float) -> None:
    """Compare the module in x's type with the oracle in float64 on the same rounded numbers."""
    module = built(size, x.dtype)
    x.requires_grad_()
    exact_module = built(size, x.dtype).double()
    exact_x = x.detach().double().requires_grad_()
    expected = values_and_gradients(oracle(exact_module, size, exact_x), exact_x, exact_module)
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert tensor.dtype == x.dtype, name
        assert torch.isfinite(tensor).all(), name
        scale = max(1.0, expected[name].abs().max().item())
        assert (tensor.double() - expected[name]).abs().max() < tolerance * scale, name


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float64_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size, random_input(size, torch.float64), 1e-9)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_float32_equals_the_oracle_in_values_and_gradients(size: Size) -> None:
    compare(size, random_input(size, torch.float32), 1e-5)


BFLOAT16_TOLERANCE = 8 * torch.finfo(torch.bfloat16).eps
"""About a dozen roundings follow one another in the layer; errors partly cancel."""


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_bfloat16_is_near_the_oracle(size: Size) -> None:
    compare(size, random_input(size, torch.bfloat16), BFLOAT16_TOLERANCE)


@pytest.mark.parametrize("part", ["cosine", "graph_convolution", "talk"])
def test_the_comparison_notices_a_wrong_definition(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    size = Size(height=2, width=3, heads=3, prefix=1)
    right = getattr(reference, part)
    monkeypatch.setattr(reference, part, lambda *inputs: 1.1 * right(*inputs))
    with pytest.raises(AssertionError):
        compare(size, random_input(size, torch.float64), 1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_tokens_of_norm_zero_give_numbers_and_gradients_never_nan(dtype: torch.dtype) -> None:
    size = Size(height=2, width=3, heads=3, prefix=1, bias=False)
    x = random_input(size, dtype)
    x[:, 2] = 0.0
    x[1] = 0.0
    x.requires_grad_()
    module = built(size, dtype)
    for name, tensor in values_and_gradients(module(x), x, module).items():
        assert torch.isfinite(tensor).all(), name
    exact = oracle(built(size, dtype).double(), size, x.detach().double())
    torch.testing.assert_close(module(x).double(), exact, rtol=0.1, atol=0.05)


def test_edges_join_the_eight_neighbours_and_the_class_token() -> None:
    size = Size(height=3, width=4, prefix=1)
    degree = built(size, torch.float32).neighbours.sum(dim=1)
    assert degree.tolist() == [13, 5, 7, 7, 5, 7, 10, 10, 7, 5, 7, 7, 5]


def test_the_graph_of_equal_tokens_is_the_normalised_grid() -> None:
    size = Size(height=3, width=3)
    near = built(size, torch.float64).neighbours.double()
    scale = near.sum(dim=1).rsqrt()
    graph = built(size, torch.float64)._graph(torch.ones(1, 9, 6, dtype=torch.float64))
    torch.testing.assert_close(graph[0], near * scale[:, None] * scale, rtol=1e-12, atol=1e-12)


def test_like_neighbours_weigh_more() -> None:
    x = torch.tensor([[[1.0, 0.1], [1.0, 0.0], [-1.0, 0.2]]])
    edges = built(Size(height=1, width=3, embed=2), torch.float32)._graph(x)[0]
    assert edges[1, 0] > edges[1, 2] > 0.0
    assert edges[0, 2] == edges[2, 0] == 0.0


def test_heads_do_not_talk_at_first_and_then_do() -> None:
    size = Size(height=2, width=3, heads=3)
    x = random_input(size, torch.float64)
    module = built(size, torch.float64)
    fresh = GraphAttention(size.layer()).talk.detach().double()
    with torch.no_grad():
        module.talk.copy_(fresh)
        silent = module(x)
        module.k.weight[:4] += 1.0  # the keys of the first head
        module.proj.weight[:, :4] = 0.0
        alone = module(x)
        module.k.weight[:4] -= 1.0
        assert torch.equal(alone, module(x))
        module.talk[2, 0] = 0.5
        assert not torch.allclose(alone, module(x))
    assert not torch.allclose(silent, alone)


@pytest.mark.parametrize("size", AWKWARD, ids=str)
def test_closed_form_is_what_is_counted(size: Size) -> None:
    layer, spec = size.layer(), OPERATORS["gvt"]
    module = GraphAttention(layer)
    macs = measure_macs(module, (layer.grid.num_tokens, layer.embed_width))
    assert macs == spec.macs(layer) == spec.training_macs(layer)
    assert sum(parameter.numel() for parameter in module.parameters()) == spec.params(layer)


@pytest.mark.parametrize("pool", [0, -1, 1.5])
def test_pool_is_a_positive_whole_number(pool: float) -> None:
    with pytest.raises(ConfigError, match=r"options\.pool"):
        check_layer(BlockConfig(operator="gvt", options={"pool": pool}))


@pytest.mark.parametrize("image", [(6, 8), (8, 6)])
def test_pool_must_divide_the_grid(image: tuple[int, int]) -> None:
    def model(pool: int) -> ModelConfig:
        block = BlockConfig(operator="gvt", options={"pool": pool})
        return ModelConfig(image_size=image, patch_size=1, blocks=(block,))

    check(model(2))
    with pytest.raises(ConfigError, match=r"must have an option pool that divides the grid"):
        check(model(4))


def test_pooling_costs_less() -> None:
    sizes = [Size(height=4, width=4, pool=pool) for pool in (1, 2, 4)]
    costs = [OPERATORS["gvt"].macs(size.layer()) for size in sizes]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 3
