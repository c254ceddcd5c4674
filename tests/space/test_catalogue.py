from dataclasses import replace
from typing import Any

import pytest

from castling.config import OPERATOR_FIELDS, BlockConfig
from castling.errors import ConfigError
from castling.operators import OPERATORS
from space.catalogue import DimensionConfig, catalogue, operator_choice
from space.decode import decode
from space.domain import Choice, Domain, FloatRange, IntRange
from space.feasible import default_point
from space.point import Space, Tie
from space.presets import SPACES


ENTRIES = catalogue()


@pytest.mark.parametrize("target", list(ENTRIES))
def test_every_target_is_a_field_that_takes_all_its_values(target: str) -> None:
    base = SPACES["digits"]().base
    space = Space(name="one", base=base, dimensions=(ENTRIES[target],))
    if target != "model.depth":
        value: Any = base.model.blocks[0] if ENTRIES[target].target.is_per_block else base
        for field in ENTRIES[target].target.block_steps or ENTRIES[target].target.steps:
            assert field in type(value).model_fields
            value = getattr(value, field)
    point = default_point(space)
    for name, domain in space.domains.items():
        for end in domain.extremes():
            decode(space, {**point, name: end})


@pytest.mark.parametrize("target", list(ENTRIES))
def test_every_entry_says_why_and_is_filed_under_its_target(target: str) -> None:
    assert ENTRIES[target].target.path == target
    assert ENTRIES[target].why
    assert ENTRIES[target].target.is_per_block or ENTRIES[target].tie == "all"


def test_every_field_of_the_blocks_can_be_searched() -> None:
    fields = {
        entry.target.block_steps[0] for entry in ENTRIES.values() if entry.target.is_per_block
    }
    assert fields == set(BlockConfig.model_fields) - {"options"}  # an operator's own
    assert fields >= OPERATOR_FIELDS


def test_spaces_offer_the_searchable_operators_and_no_others() -> None:
    before = operator_choice()
    assert before.values == tuple(name for name, spec in OPERATORS.items() if spec.searchable)
    hidden = replace(OPERATORS["softmax"], searchable=False)
    with OPERATORS.temporarily("hidden", hidden):
        assert operator_choice() == before
    with OPERATORS.temporarily("shown", OPERATORS["softmax"]):
        assert operator_choice().values == tuple(sorted([*before.values, "shown"]))
        assert "shown" in catalogue()["model.blocks.*.operator"].domain
    assert operator_choice() == before


@pytest.mark.parametrize(
    ("written", "domain", "tie"),
    [
        ({"target": "model.blocks.*.num_heads"}, IntRange(1, 4), "each"),
        ({"target": "model.blocks.*.num_heads", "tie": "all"}, IntRange(1, 4), "all"),
        ({"target": "model.blocks.*.num_heads", "low": 2, "high": 6, "step": 2}, IntRange(2, 6, 2),
         "each"),
        ({"target": "model.blocks.*.num_heads", "choices": [1, 4]}, Choice((1, 4)), "each"),
        ({"target": "train.epochs", "low": 1, "high": 3}, IntRange(1, 3), "all"),
        ({"target": "train.clip_norm", "low": 0.5, "high": 2}, FloatRange(0.5, 2.0), "all"),
        (
            {"target": "train.learning_rate", "low": 1e-3, "high": 1e-2, "log": True},
            FloatRange(1e-3, 1e-2, log=True),
            "all",
        ),
        (
            {"target": "train.weight_decay", "low": 1, "high": 2, "log": True},
            FloatRange(1.0, 2.0, log=True),
            "all",
        ),
        (
            {"target": "model.qkv_bias", "choices": [True, False]},
            Choice((True, False)),
            "all",
        ),
        ({"target": "data.num_train", "choices": [None, 100]}, Choice((None, 100)), "all"),
    ],
)  # fmt: skip
def test_recipes_write_dimensions(written: dict[str, Any], domain: Domain, tie: Tie) -> None:
    dimension = DimensionConfig.from_data(written).dimension()
    assert dimension.target.path == written["target"]
    assert (dimension.domain, dimension.tie) == (domain, tie)
    usual = ENTRIES.get(dimension.target.path)
    assert dimension.why == (usual.why if usual else "")
    if isinstance(domain, Choice):
        assert isinstance(dimension.domain, Choice)
        kinds = [type(value) for value in dimension.domain.values]
        assert kinds == [type(value) for value in domain.values]


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({}, "target: is required"),
        ({"choices": [1], "low": 1, "high": 2}, "choices: must not stand beside low and high"),
        ({"choices": [1], "high": 2}, "choices: must not stand beside low and high"),
        ({"low": 1}, "low: must stand beside high"),
        ({"high": 1.5}, "low: must stand beside high"),
        ({"low": 3, "high": 1}, "range: must reach high from low in whole steps"),
        ({"low": 1, "high": 4, "step": 2}, "range: must reach high from low in whole steps"),
        ({"low": 1, "high": 4, "step": 0}, "step: must be greater than or equal to 1"),
        ({"low": 0.5, "high": 2.5, "step": 1}, "step: must stand beside whole low and high"),
        ({"low": 1, "high": 9, "step": 2, "log": True}, "step: must stand beside whole"),
        ({"step": 2}, "step: must stand beside whole low and high"),
        ({"choices": [1, 2], "log": True}, "log: must stand beside low and high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "range: must have low <= high, and low > 0"),
        ({"low": float("nan"), "high": 1.0}, "low"),
        ({"choices": []}, "choices: must be one or more different values"),
        ({"choices": [1, 1]}, "choices: must be one or more different values"),
        ({"tie": "some"}, "tie: must be 'each', 'stage' or 'all'"),
        ({"steps": 3}, "steps: is not a field of DimensionConfig"),
    ],
)
def test_contradictory_dimensions_are_refused_when_read(
    written: dict[str, Any], sentence: str
) -> None:
    target = {"target": "model.blocks.*.num_heads"} if written else {}
    with pytest.raises(ConfigError) as caught:
        DimensionConfig.from_data(target | written)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_target_outside_the_catalogue_needs_a_domain() -> None:
    config = DimensionConfig(target="train.epochs")
    with pytest.raises(ConfigError, match=r"train\.epochs: needs choices, or low and high"):
        config.dimension()
