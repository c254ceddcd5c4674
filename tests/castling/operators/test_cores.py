"""What every operator's core must do, run over the registry: a new core is tested by existing."""

import pytest
import torch
from torch import Tensor, nn

from castling.config import BlockConfig
from castling.operators import OPERATORS, TokenGrid
from castling.operators.spec import CoreShape, CoreSpec, LayerShape, core_shape
from space.measure import measure_macs, measure_params


CORES = [name for name, spec in OPERATORS.items() if spec.core is not None]
MAP = TokenGrid(height=3, width=5)
SHAPES = {
    "same grid": {"queries": MAP, "keys": MAP},
    "class token": {
        "queries": TokenGrid(height=2, width=3, num_prefix=1),
        "keys": TokenGrid(height=2, width=3, num_prefix=1),
    },
    "fewer queries": {"queries": TokenGrid(height=2, width=3), "keys": MAP, "query_stride": 2},
    "fewer keys": {"queries": MAP, "keys": TokenGrid(height=1, width=2), "key_stride": 3},
}


def core_of(name: str) -> CoreSpec:
    core = OPERATORS[name].core
    assert core is not None
    return core


def block(name: str, form: str = "tokens") -> BlockConfig:
    return BlockConfig(
        operator=name, num_heads=2, head_size=4, conv_kernel=3, conv_form=form, mask=None
    )


def built(core: CoreSpec, shape: CoreShape) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return core.build(shape)


class OneInput(nn.Module):
    """A core as a module of one tensor that holds q, k and v of an image."""

    def __init__(self, core: nn.Module, shape: CoreShape) -> None:
        super().__init__()
        num_queries, num_keys = shape.queries.num_tokens, shape.keys.num_tokens
        self.core = core
        self.sizes = [
            (shape.num_heads, num_queries, shape.key_size),
            (shape.num_heads, num_keys, shape.key_size),
            (shape.num_heads, num_keys, shape.value_size),
        ]

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split([torch.Size(size).numel() for size in self.sizes], dim=1)
        q, k, v = (part.unflatten(1, size) for part, size in zip(parts, self.sizes, strict=True))
        return self.core(q, k, v, None)


@pytest.mark.parametrize("form", ["tokens", "grid"])
@pytest.mark.parametrize("grids", SHAPES)
@pytest.mark.parametrize("name", CORES)
def test_costs_what_it_declares(name: str, grids: str, form: str) -> None:
    shape = CoreShape(
        choice=block(name, form), num_heads=2, key_size=4, value_size=7, **SHAPES[grids]
    )
    core = built(core_of(name), shape)
    whole = OneInput(core, shape)
    num_numbers = sum(torch.Size(size).numel() for size in whole.sizes)
    assert whole(torch.randn(3, num_numbers)).shape == (3, 2, shape.queries.num_tokens, 7)
    assert measure_macs(whole, (num_numbers,), [name]) == core_of(name).macs(shape)
    assert measure_params(core) == core_of(name).params(shape)


@pytest.mark.parametrize("name", CORES)
def test_between_the_operators_projections_it_is_the_operator(name: str) -> None:
    grid = TokenGrid(height=3, width=4, num_prefix=1)
    layer = LayerShape(block=block(name), embed_width=6, grid=grid)
    operator = OPERATORS[name].build(layer).double().eval()
    core = built(core_of(name), core_shape(layer)).double()
    core.load_state_dict(
        {key: value for key, value in operator.state_dict().items() if key in core.state_dict()}
    )
    x = torch.randn(2, grid.num_tokens, 6, dtype=torch.float64)
    q, k, v = operator.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = operator.proj(core(q, k, v, None).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, operator(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CORES)
def test_what_a_branch_adds_reaches_the_output(name: str) -> None:
    grid = TokenGrid(height=2, width=2)
    core = built(
        core_of(name), core_shape(LayerShape(block=block(name), embed_width=6, grid=grid))
    )
    q, k, v, added = torch.randn(4, 1, 2, 4, 4)
    assert (core(q, k, v, added) - core(q, k, v, None)).abs().max() > 1e-3
