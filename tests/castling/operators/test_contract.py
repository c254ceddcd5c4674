"""What every operator must do, run over the registry: a new operator is tested by existing."""

import copy

import pytest
import torch
from torch import nn

from castling.config import OPERATOR_FIELDS, BlockConfig, MaskSchedule
from castling.operators import OPERATORS, OperatorSpec, TokenGrid
from castling.operators.auxiliary import branches
from castling.operators.spec import LayerShape


pytestmark = pytest.mark.parametrize("name", list(OPERATORS))

GRIDS = [
    TokenGrid(height=1, width=1),
    TokenGrid(height=2, width=3, num_prefix=1),
    TokenGrid(height=5, width=4),
]
CHANGES = {
    "num_heads": 3,
    "head_size": 6,
    "conv_kernel": 5,
    "conv_form": "grid",
    "conv_filters": "channel",
    "mask": None,
}
"""For every field of the operator a value unlike `BLOCK`'s."""


def block(name: str) -> BlockConfig:
    schedule = MaskSchedule(shape="constant", start_multiple=1.0)
    return BlockConfig(operator=name, num_heads=2, head_size=4, conv_kernel=3, mask=schedule)


def layer(config: BlockConfig, grid: TokenGrid = GRIDS[1], *, bias: bool = True) -> LayerShape:
    return LayerShape(block=config, embed_width=10, grid=grid, qkv_bias=bias)


def build(shape: LayerShape) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OPERATORS[shape.block.operator].build(shape)


def tokens(grid: TokenGrid, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, grid.num_tokens, 10, generator=generator)


def fingerprint(shape: LayerShape) -> dict[str, torch.Tensor]:
    """Return the weights and, for the same weights, the output: what a field can change."""
    module = build(shape)
    return {**module.state_dict(), "output": module(tokens(shape.grid)).detach()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and bool((one[key] == other[key]).all()) for key in one
    )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_keeps_the_shape_and_has_the_parameters_it_declares(
    name: str, grid: TokenGrid, bias: bool
) -> None:
    shape = layer(block(name), grid, bias=bias)
    module = build(shape)
    x = tokens(grid)
    assert module(x).shape == x.shape
    assert sum(weight.numel() for weight in module.parameters()) == OPERATORS[name].params(shape)


def test_gradients_reach_the_input_and_every_parameter(name: str) -> None:
    module = build(layer(block(name)))
    x = tokens(GRIDS[1]).requires_grad_()
    module(x).square().sum().backward()
    for key, parameter in [("input", x), *module.named_parameters()]:
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key


def test_images_of_a_batch_do_not_mix(name: str) -> None:
    module = build(layer(block(name))).double().eval()
    x = tokens(GRIDS[1]).double()
    alone = torch.cat([module(image[None]) for image in x])
    torch.testing.assert_close(module(x), alone, rtol=1e-12, atol=1e-12)


def test_tokens_mix(name: str) -> None:
    module = build(layer(block(name)))
    x = tokens(GRIDS[1])
    changed = x.clone()
    changed[:, -1] += 1.0
    assert (module(changed) - module(x))[:, 0].abs().max() > 1e-6


@pytest.mark.parametrize("field", sorted(OPERATOR_FIELDS))
def test_reads_exactly_the_fields_it_declares(name: str, field: str) -> None:
    before = block(name)
    after = before.replace(**{field: CHANGES[field]})
    assert getattr(before, field) != getattr(after, field)
    same = equal(fingerprint(layer(before)), fingerprint(layer(after)))
    assert same == (field not in OPERATORS[name].uses)
    if same:
        spec, shapes = OPERATORS[name], (layer(before), layer(after))
        assert costs(spec, shapes[0]) == costs(spec, shapes[1])
        assert before.canonical() == after.canonical()


def costs(spec: OperatorSpec, shape: LayerShape) -> tuple[int, int, int]:
    return spec.macs(shape), spec.params(shape), spec.training_macs(shape)


def test_costs_are_whole_numbers_and_the_branch_costs_training_only(name: str) -> None:
    spec = OPERATORS[name]
    with_branch = layer(block(name))
    without = layer(block(name).replace(mask=None))
    assert all(isinstance(cost, int) and cost > 0 for cost in costs(spec, with_branch))
    assert spec.macs(with_branch) == spec.macs(without) == spec.training_macs(without)
    assert spec.training_macs(with_branch) >= spec.macs(with_branch)
    assert (spec.training_macs(with_branch) > spec.macs(with_branch)) == ("mask" in spec.uses)


def test_a_layer_without_a_schedule_has_no_branch(name: str) -> None:
    assert branches(build(layer(block(name).replace(mask=None)))) == []
    assert len(branches(build(layer(block(name))))) == int("mask" in OPERATORS[name].uses)


def test_copies_compute_the_same_and_share_nothing(name: str) -> None:
    module = build(layer(block(name)))
    copied = copy.deepcopy(module)
    x = tokens(GRIDS[1])
    before = module(x)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    assert torch.equal(module(x), before)


def test_describes_itself_in_one_line(name: str) -> None:
    spec = OPERATORS[name]
    assert spec.summary
    assert "\n" not in spec.summary
    assert spec.source
    assert spec.uses <= OPERATOR_FIELDS
    assert isinstance(spec.searchable, bool)
