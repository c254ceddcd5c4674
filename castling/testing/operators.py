"""What every operator must do: shape, gradients, fields, costs, saving."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import castling
from castling.config import OPERATOR_FIELDS, BlockConfig, MaskSchedule, ModelConfig
from castling.costs.count import measure_macs, measure_params
from castling.errors import ConfigError
from castling.model.check import canonical_layer, check, check_layer
from castling.operators import OPERATORS, OperatorSpec, TokenGrid
from castling.operators.modules.auxiliary import branches
from castling.operators.spec import LayerShape
from castling.testing.saved_models import assert_saved_and_loaded


GRIDS = (
    TokenGrid(height=1, width=1),
    TokenGrid(height=2, width=3, num_prefix=1),
    TokenGrid(height=5, width=4),
    TokenGrid(height=8, width=4),
    TokenGrid(height=4, width=4, num_prefix=1),
    TokenGrid(height=7, width=7),
)
CHANGES = {
    "num_heads": 3,
    "head_size": 6,
    "conv_kernel": 5,
    "conv_form": "grid",
    "conv_filters": "channel",
    "mask": None,
}
"""For every field of the operator a value unlike that of `block`."""
WIDTH = 16
"""Channels of a token."""
MOST_DRAWS = 64
"""Training steps in which each part of an operator that draws its parts has worked."""


class OperatorContract:
    """Tests of one operator; a subclass names it in `operator`."""

    operator: ClassVar[str]

    @pytest.fixture
    def name(self) -> str:
        """Return the operator's name in the registry."""
        return self.operator

    def test_describes_itself_in_one_line(self, name: str) -> None:
        """The table of operators has a line for it, and its formula has a source."""
        spec = OPERATORS[name]
        assert spec.summary
        assert "\n" not in spec.summary
        assert spec.source
        assert spec.uses <= OPERATOR_FIELDS
        assert isinstance(spec.searchable, bool)

    @pytest.mark.parametrize("bias", [True, False])
    def test_keeps_the_shape_and_has_the_parameters_it_declares(
        self, name: str, *, bias: bool
    ) -> None:
        """On every grid that it serves; on the others `check` refuses the model."""
        for grid in GRIDS:
            shape = layer(block(name), grid, bias=bias)
            if grid not in served(name):
                with pytest.raises(ConfigError, match=r"blocks\.0\.operator"):
                    check(model(shape))
                continue
            module = build(shape)
            x = tokens(grid)
            assert module(x).shape == x.shape, grid
            assert measure_params(module) == OPERATORS[name].params(shape), grid

    def test_serves_some_layers_and_says_why_not_the_others(self, name: str) -> None:
        """The objection is one sentence of what must hold."""
        assert len(served(name)) >= 2
        for grid in set(GRIDS) - set(served(name)):
            objection = OPERATORS[name].check(layer(block(name), grid))
            assert "must" in objection
            assert "\n" not in objection

    def test_gradients_reach_the_input_and_every_parameter(self, name: str) -> None:
        """They are finite, and none is zero; what costs nothing has none."""
        shape = layer(block(name))
        module = build(shape)
        x = tokens(shape.grid).requires_grad_()
        if is_free(name):
            assert not module(x).requires_grad
            return
        weights = [("input", x), *module.named_parameters()]
        torch.manual_seed(0)
        for _ in range(MOST_DRAWS):  # some operators draw which of their parts work in a step
            module(x).square().sum().backward()
            if all(weight.grad is not None and weight.grad.any() for _, weight in weights):
                break
        for key, weight in weights:
            assert weight.grad is not None, key
            assert torch.isfinite(weight.grad).all(), key
            assert weight.grad.any(), key

    @pytest.mark.parametrize("form", ["tokens", "grid"])
    def test_other_numbers_of_tokens_are_refused_in_one_sentence_or_right(
        self, name: str, form: str
    ) -> None:
        """Right is what a layer of so many tokens makes of them with the same weights."""
        config = block(name).replace(conv_form=form, mask=None)
        for index in range(2):
            shape = layer(config, index=index)
            module, grid = build(shape).eval(), shape.grid
            for sides in ({"width": 2 * grid.width}, {"height": 1, "width": 1}):
                other = replace(grid, **sides)
                x = tokens(other)
                for train in (False, True):
                    try:
                        mixed = module.train(train)(x)
                    except ConfigError as error:
                        refused = str(error)
                        assert "image size: must be that of the model" in refused
                    else:
                        anew = build(layer(config, other))
                        anew.load_state_dict(module.state_dict())
                        torch.testing.assert_close(mixed, anew.train(train)(x))

    @pytest.mark.parametrize("train", [True, False])
    def test_runs_on_the_meta_device(self, name: str, *, train: bool) -> None:
        """A model is examined there before it is built."""
        shape = layer(block(name))
        x = tokens(shape.grid)
        module = build(shape).train(train)
        assert module.to("meta")(x.to("meta")).shape == x.shape
        with torch.device("meta"):
            assert build(shape).train(train)(x.to("meta")).shape == x.shape

    def test_images_of_a_batch_do_not_mix(self, name: str) -> None:
        """In eval mode."""
        shape = layer(block(name))
        module = build(shape).double().eval()
        x = tokens(shape.grid).double()
        alone = torch.cat([module(image[None]) for image in x])
        torch.testing.assert_close(module(x), alone, rtol=1e-12, atol=1e-12)

    def test_tokens_mix_as_declared(self, name: str) -> None:
        """What `mixes_tokens` says."""
        shape = layer(block(name))
        module = build(shape).eval()
        x = tokens(shape.grid)
        changed = x.clone()
        changed[:, -1] += 1.0
        mixed = (module(changed) - module(x))[:, :-1].abs().max() > 1e-6
        assert bool(mixed) == OPERATORS[name].mixes_tokens

    @pytest.mark.parametrize("field", sorted(OPERATOR_FIELDS))
    def test_reads_exactly_the_fields_it_declares(self, name: str, field: str) -> None:
        """A field changes weights or output if, and only if, it is among `uses`."""
        before = block(name)
        after = before.replace(**{field: CHANGES[field]})
        assert getattr(before, field) != getattr(after, field)
        same = equal(fingerprint(layer(before)), fingerprint(layer(after)))
        assert same == (field not in OPERATORS[name].uses)
        if same:
            spec, shapes = OPERATORS[name], (layer(before), layer(after))
            assert costs(spec, shapes[0]) == costs(spec, shapes[1])
            assert canonical_layer(before) == canonical_layer(after)

    def test_costs_are_whole_numbers_and_the_branch_costs_training_only(self, name: str) -> None:
        """All are positive, or all are 0."""
        spec = OPERATORS[name]
        with_branch = layer(block(name))
        without = layer(block(name).replace(mask=None))
        assert all(isinstance(cost, int) for cost in costs(spec, with_branch))
        assert all((cost > 0) == (not is_free(name)) for cost in costs(spec, with_branch))
        assert spec.macs(with_branch) == spec.macs(without) == spec.training_macs(without)
        assert spec.training_macs(with_branch) >= spec.macs(with_branch)
        more_in_training = spec.training_macs(with_branch) > spec.macs(with_branch)
        assert more_in_training == ("mask" in spec.uses)

    def test_a_layer_without_a_schedule_has_no_branch(self, name: str) -> None:
        """One with a schedule has one if the operator uses masks."""
        assert branches(build(layer(block(name).replace(mask=None)))) == []
        assert len(branches(build(layer(block(name))))) == int("mask" in OPERATORS[name].uses)

    def test_copies_compute_the_same_and_share_nothing(self, name: str) -> None:
        """A castled model is a copy."""
        shape = layer(block(name))
        module = build(shape).eval()
        copied = copy.deepcopy(module)
        x = tokens(shape.grid)
        before = module(x)
        assert torch.equal(copied(x), before)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.add_(1.0)
        assert torch.equal(module(x), before)

    def test_options_have_defaults_and_no_others_are_taken(self, name: str) -> None:
        """Written out, the defaults are the same layer."""
        options = OPERATORS[name].options()
        written_out = block(name).replace(options=options.to_data())
        assert canonical_layer(written_out) == canonical_layer(block(name))
        with pytest.raises(ConfigError, match=r"options\.beauty"):
            check_layer(block(name).replace(options={"beauty": 1}))

    def test_closed_form_is_what_is_counted(self, name: str) -> None:
        """With its branch and castled, in a first and a second layer, on every grid it serves."""
        for grid in served(name):
            for index in (0, 1):
                shape = layer(block(name), grid, index=index)
                castled = layer(block(name).replace(mask=None), grid, index=index)
                sizes = (grid.num_tokens, WIDTH)
                spent = OPERATORS[name].cost(shape)
                assert measure_macs(build(shape), sizes, [name]) == spent.training_macs
                assert measure_macs(build(castled), sizes, [name]) == spent.macs

    @pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_a_model_of_any_precision_is_saved_and_loaded(
        self, name: str, precision: torch.dtype, tmp_path: Path
    ) -> None:
        """In the middle of its mask schedule."""
        trained = castling.build(model(layer(block(name))), seed=0)
        castling.set_progress(trained, 0.3)
        assert_saved_and_loaded(trained.to(precision), tmp_path)


def block(name: str) -> BlockConfig:
    """Return the block of an operator whose fields the tests change."""
    schedule = MaskSchedule(shape="constant", start_multiple=0.5)
    return BlockConfig(operator=name, num_heads=2, head_size=4, conv_kernel=3, mask=schedule)


def served(name: str) -> list[TokenGrid]:
    """Return the grids that an operator serves."""
    spec = OPERATORS[name]
    return [
        grid
        for grid in GRIDS
        if not spec.check(LayerShape(block=block(name), embed_width=WIDTH, grid=grid))
    ]


def layer(
    config: BlockConfig, grid: TokenGrid | None = None, *, bias: bool = True, index: int = 0
) -> LayerShape:
    """Return a layer; on the first grid of more than a token that its operator serves."""
    grid = grid or next(each for each in served(config.operator) if each.num_tokens > 1)
    return LayerShape(block=config, embed_width=WIDTH, grid=grid, qkv_bias=bias, index=index)


def model(shape: LayerShape) -> ModelConfig:
    """Return a model of one such layer."""
    return ModelConfig(
        image_size=(shape.grid.height, shape.grid.width),
        patch_size=1,
        embed_width=WIDTH,
        pooling="cls" if shape.grid.num_prefix else "mean",
        blocks=(shape.block,),
    )


def build(shape: LayerShape) -> nn.Module:
    """Return a layer's module, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return OPERATORS[shape.block.operator].build(shape)


def tokens(grid: TokenGrid, batch: int = 3) -> Tensor:
    """Return the same tokens every time (batch, token, channel)."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, grid.num_tokens, WIDTH, generator=generator)


def fingerprint(shape: LayerShape) -> dict[str, Tensor]:
    """Return the weights and, for the same weights, the output: what a field can change."""
    module = build(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = module(tokens(shape.grid))
    return {**module.state_dict(), "output": output.detach()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two fingerprints are the same, bit by bit."""
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and bool((one[key] == other[key]).all()) for key in one
    )


def costs(spec: OperatorSpec, shape: LayerShape) -> tuple[int, int, int]:
    """Return MACs, parameters and MACs in training of a layer."""
    return spec.macs(shape), spec.params(shape), spec.training_macs(shape)


def is_free(name: str) -> bool:
    """Whether an operator computes nothing: no cost, no gradient."""
    return costs(OPERATORS[name], layer(block(name))) == (0, 0, 0)
