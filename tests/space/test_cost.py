from collections.abc import Callable
from random import Random

import pytest
import timm
from hypothesis import given, settings, strategies as st

from castling.blocks.parts import block_cost
from castling.config import BlockConfig, MaskSchedule, ModelConfig
from castling.costs.cost import Cost
from castling.errors import ConfigError
from castling.operators import OPERATORS
from castling.operators.spec import fits_anywhere, layer_shapes
from space.cost import cost
from space.decode import decode
from space.feasible import Quantity, max_cost_point, min_cost_point
from space.measure import measure_cost, measure_macs, measure_params
from space.operator_table import operator_costs
from space.point import Point, Space
from space.presets import SPACES


EVERYWHERE = [name for name, spec in OPERATORS.items() if spec.check is fits_anywhere]
"""The operators that serve every layer; those with rules have tests of their own."""


ALIVE = MaskSchedule(start_multiple=0.0)
"""A branch that is alive however few tokens there are."""


BLOCK_CONFIGS = st.builds(
    BlockConfig,
    operator=st.sampled_from(EVERYWHERE),
    num_heads=st.integers(1, 4),
    head_size=st.integers(1, 9),
    conv_kernel=st.sampled_from([1, 3, 5, 7]),
    conv_form=st.sampled_from(["tokens", "grid"]),
    conv_filters=st.sampled_from(["head", "channel"]),
    mask=st.sampled_from([None, ALIVE]),
    mlp_ratio=st.floats(0.01, 4.0),
)
MODEL_CONFIGS = st.builds(
    lambda height, width, patch, blocks, **fields: ModelConfig(
        image_size=(height * patch, width * patch), patch_size=patch, blocks=blocks, **fields
    ),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    patch=st.integers(1, 3),
    blocks=st.lists(BLOCK_CONFIGS, min_size=1, max_size=2).map(tuple),
    channels=st.integers(1, 3),
    num_classes=st.integers(1, 5),
    embed_width=st.integers(1, 20),
    pooling=st.sampled_from(["cls", "mean"]),
    qkv_bias=st.booleans(),
)


@given(model=MODEL_CONFIGS)
@settings(max_examples=15)
def test_the_closed_form_is_what_is_measured(model: ModelConfig) -> None:
    assert cost(model) == measure_cost(model)


@pytest.mark.parametrize(("pooling", "form"), [("cls", "grid"), ("mean", "tokens")])
@pytest.mark.parametrize("operator", EVERYWHERE)
def test_every_operator_costs_what_is_measured(operator: str, form: str, pooling: str) -> None:
    """A non-square image, an attention width unlike the embed width, a filter per channel."""
    block = BlockConfig.from_data(
        {
            "operator": operator,
            "num_heads": 3,
            "head_size": 5,
            "conv_kernel": 5,
            "conv_form": form,
            "conv_filters": "channel",
            "mask": ALIVE.to_data(),
        }
    )
    model = ModelConfig.from_data(
        {
            "image_size": [6, 10],
            "channels": 2,
            "embed_width": 14,
            "pooling": pooling,
            "qkv_bias": False,
            "blocks": [block.to_data()],
        }
    )
    assert cost(model) == measure_cost(model)


NUM_EXAMPLES = {"imagenet": 1}
"""Fewer where building and tracing a model takes a second."""


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "imagenet"])
def test_points_of_the_presets_cost_what_is_measured(name: str) -> None:
    space = SPACES[name]()

    @given(seed=st.integers(0, 2**32))
    @settings(max_examples=NUM_EXAMPLES.get(name, 3))
    def check(seed: int) -> None:
        model = decode(space, space.sample(Random(seed))).model
        assert cost(model) == measure_cost(model)

    check()


@pytest.mark.parametrize("find", [min_cost_point, max_cost_point])
@pytest.mark.parametrize("name", ["digits"])
def test_the_ends_of_the_small_presets_cost_what_is_measured(
    name: str, find: Callable[[Space, Quantity], Point]
) -> None:
    space = SPACES[name]()
    model = decode(space, find(space, "macs")).model
    assert cost(model) == measure_cost(model)


@given(model=MODEL_CONFIGS, block=BLOCK_CONFIGS)
def test_blocks_add_up(model: ModelConfig, block: BlockConfig) -> None:
    longer = model.replace(blocks=(*model.blocks, block))
    assert cost(longer) == cost(model) + block_cost(layer_shapes(longer)[-1])


@given(model=MODEL_CONFIGS)
def test_only_the_branch_costs_extra_in_training(model: ModelConfig) -> None:
    spent, castled = cost(model), cost(model.castled())
    assert castled == Cost(macs=spent.macs, params=spent.params, training_macs=spent.macs)
    grid_tokens = (model.image_size[0] // model.patch_size) * (
        model.image_size[1] // model.patch_size
    )
    num_tokens = grid_tokens + (model.pooling == "cls")
    alive = [block for block in model.blocks if block.mask and "mask" in _uses(block)]
    branches = sum(2 * num_tokens**2 * block.attention_width for block in alive)
    assert spent.training_macs - spent.macs == branches


def _uses(block: BlockConfig) -> frozenset[str]:
    return OPERATORS[block.operator].uses


def deit(num_heads: int, operator: str) -> ModelConfig:
    """DeiT of 12 layers and heads of 64 channels; castled it convolves 9 tokens."""
    block = BlockConfig(operator=operator, num_heads=num_heads, head_size=64, conv_kernel=9)
    return ModelConfig(
        image_size=(224, 224),
        channels=3,
        num_classes=1000,
        patch_size=16,
        embed_width=64 * num_heads,
        pooling="cls",
        blocks=(block,) * 12,
    )


@pytest.mark.parametrize(
    ("num_heads", "softmax_gmacs", "castled_gmacs"),
    [(3, "1.254", "1.137"), (6, "4.599", "4.366"), (12, "17.564", "17.097")],
    ids=["DeiT-T", "DeiT-S", "DeiT-B"],
)
def test_deit_costs_what_is_published(
    num_heads: int, softmax_gmacs: str, castled_gmacs: str
) -> None:
    softmax, castled = deit(num_heads, "softmax"), deit(num_heads, "linear_angular")
    assert f"{cost(softmax).macs / 1e9:.3f}" == softmax_gmacs
    assert f"{cost(castled).macs / 1e9:.3f}" == castled_gmacs


def test_deit_tiny_costs_exactly() -> None:
    softmax, castled = cost(deit(3, "softmax")), cost(deit(3, "linear_angular"))
    assert (softmax.macs, softmax.params) == (1_253_683_200, 5_717_416)
    assert softmax.training_macs == softmax.macs
    assert (castled.macs, castled.params) == (1_137_033_984, 5_717_416 + 12 * 3 * 9)
    assert castled.training_macs - castled.macs == 12 * 2 * 197**2 * 192


def test_the_closed_form_is_what_is_measured_on_timms_deit_tiny() -> None:
    original = timm.create_model("deit_tiny_patch16_224", pretrained=False)
    spent = cost(deit(3, "softmax"))
    assert measure_macs(original, (3, 224, 224)) == spent.macs
    assert measure_params(original) == spent.params


def test_the_table_of_operators_has_the_cost_of_one_layer() -> None:
    table = operator_costs(num_tokens=16, width=12, num_heads=3)
    assert [name for name, _, _ in table] == list(OPERATORS)
    for name, spent, summary in table:
        assert summary == OPERATORS[name].summary
        if name not in EVERYWHERE:
            continue
        block = BlockConfig(operator=name, num_heads=3, head_size=4, mlp_ratio=1.0)
        model = ModelConfig(image_size=(4, 4), patch_size=1, embed_width=12, blocks=(block,))
        mlp_macs, mlp_params, norm_params = 2 * 16 * 12 * 12, 2 * 12 * 12 + 2 * 12, 4 * 12
        whole = block_cost(layer_shapes(model)[0])
        assert spent.macs == whole.macs - mlp_macs
        assert spent.params == whole.params - mlp_params - norm_params


@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "sentence"),
    [(15, 3, "tokens: must be a square number, got 15"), (16, 5, "heads: must divide the width")],
)
def test_the_table_of_operators_refuses_odd_numbers(
    num_tokens: int, num_heads: int, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        operator_costs(num_tokens, 12, num_heads)
