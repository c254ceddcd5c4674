from random import Random

import pytest

from castling.config import RunConfig
from castling.errors import ConfigError, UnknownNameError
from reports.records import Objective
from search.config import (
    SearchConfig,
    read_recipe,
    with_settings,
)
from search.recipes import RECIPES
from search.testing import RecipeContract
from space.budget import Budget
from space.catalogue import DimensionConfig
from space.decode import decode
from space.feasible import (
    check_feasible,
    default_point,
    max_cost_point,
    min_cost_point,
    point_cost,
)


@pytest.mark.parametrize("name", list(RECIPES))
class TestEveryRecipe(RecipeContract):
    pass


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipe_says_how_to_run_it(name: str) -> None:
    head = RECIPES[name].text
    assert f"castling search {name} --out runs/{name}" in head
    assert "duration" in head
    assert "result" in head


def test_the_old_name_of_divided_batches_is_read() -> None:
    data = {"name": "x", "space": "digits", "halve_batch": True}
    config = SearchConfig.from_data(data)
    assert config.double_accumulation
    assert "halve_batch" not in config.to_data()


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(
        UnknownNameError, match=r"digits, fashion-mnist, .*operators, smoke.*got 'nope'"
    ):
        read_recipe("nope")


@pytest.mark.parametrize("name", ["levit_128", "imagenet"])
def test_a_spaces_name_is_the_recipe_that_searches_it(name: str) -> None:
    config = read_recipe(name)
    assert (config.name, config.space) == (name, name)
    assert config == SearchConfig(name=name, space=name)


def test_a_backbones_layers_and_image_size_can_be_set() -> None:
    settings = {"model.image_size": 64, "model.num_classes": 7, "model.blocks.3.conv_kernel": 5}
    config = SearchConfig(
        space="levit_128", set={**settings, "model.blocks.*.operator": "linear_angular"}
    )
    with pytest.raises(ConfigError, match="is searched"):
        config.build_space()
    del settings["model.blocks.3.conv_kernel"]
    space = SearchConfig(space="levit_128", set=settings).build_space()
    assert space.base.model.image_size == (64, 64)
    assert space.base.model.num_classes == 7


def test_a_depth_of_a_backbone_cannot_be_searched() -> None:
    depth = DimensionConfig(target="model.depth", low=10, high=14)
    with pytest.raises(ConfigError, match="one choice for each of the 14 attention layers"):
        SearchConfig(space="levit_128", dimensions=(depth,)).build_space()


def test_a_search_prices_by_the_table_that_it_is_given() -> None:
    config = SearchConfig(objectives=(Objective(metric="latency_ms", direction="min"),))
    table = config.latency_table()
    assert table is not None
    assert config.context(config.build_space(), table).cost_model.latency_ms is table
    assert SearchConfig().latency_table() is None


def test_a_setting_fixes_its_dimension() -> None:
    free = SearchConfig(space="digits").build_space()
    fixed = SearchConfig(space="digits", set={"model.blocks.*.operator": "softmax"}).build_space()
    gone = set(free.domains) - set(fixed.domains)
    assert gone == {f"model.blocks.{layer}.operator" for layer in range(4)}
    assert {block.operator for block in fixed.base.model.blocks} == {"softmax"}


def test_settings_reach_one_block_or_all() -> None:
    base = SearchConfig(space="digits").build_space().base
    changed = with_settings(base, {"model.blocks.1.num_heads": 7, "train.epochs": 3})
    assert [block.num_heads for block in changed.model.blocks] == [3, 7, 3]
    assert changed.train.epochs == 3
    assert base.train.epochs == 40


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"space": "nope"}, "space"),
        ({"sampler": "nope"}, "sampler"),
        ({"stopper": "nope"}, "stopper"),
        ({"trails": 3}, "trails"),
        ({"trials": 0}, "trials"),
        ({"repeats": 3, "stopper": "pareto"}, "stopper: must be none with repeats above 1, .*"),
        ({"repeats": 0}, "repeats"),
        ({"trials": True}, "trials: must be a number, got True"),
        ({"workers": False}, "workers: must be a number, got False"),
        ({"budget": {"max_macs": True}}, "max_macs: must be a .*, got True"),
        ({"budget": {"max_macs": "lots"}}, "budget"),
        ({"objectives": [{"metric": "beauty", "direction": "max"}]}, "objectives"),
    ],
)
def test_bad_recipe_names_its_field(data: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        SearchConfig.from_data(data, "recipe.yaml").build_space()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dimension", "named"),
    [
        (
            {"target": "model.blocks.*.operator", "choices": ["nope"]},
            r"operator: cannot be 'nope'",
        ),
        ({"target": "model.beauty", "choices": [1]}, r"model.beauty: cannot be 1"),
        ({"target": "beauty.model", "choices": [1]}, r"beauty.model: cannot be 1"),
        ({"target": "model.embed_width", "low": 16, "high": 40, "step": 7}, "whole steps"),
        ({"target": "model.embed_width", "low": 16}, "beside high"),
        ({"target": "model.pooling"}, "needs choices"),
        ({"target": "train.epochs", "low": True, "high": 3}, "low: must be a number, got True"),
        (
            {"target": "train.epochs", "domain": {"kind": "int", "low": 1, "high": True}},
            "domain.high: must be a number, got True",
        ),
    ],
)
def test_bad_dimension_names_itself(dimension: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SearchConfig.from_data({"dimensions": [dimension]}).build_space()


OPERATORS = {"target": "model.blocks.*.operator", "choices": ["swin", "gvt", "softmax"]}


@pytest.mark.parametrize(
    ("dimension", "named"),
    [
        ({"target": "model.blocks.*.options.nonsense", "choices": [2]}, "must be an option of"),
        ({"target": "model.blocks.*.options.alpha", "choices": [0.1]}, "must be an option of"),
        ({"target": "model.blocks.*.options.pool", "choices": [0]}, r"cannot be 0 \(pool"),
        ({"target": "model.blocks.*.options.pool", "choices": ["a"]}, r"cannot be 'a' \(pool"),
    ],
)
def test_an_option_that_no_chosen_operator_takes_is_refused(
    dimension: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        SearchConfig.from_data({"dimensions": [OPERATORS, dimension]}).build_space()
    assert "\n" not in str(caught.value)


def test_options_are_searched_where_their_operator_is_chosen() -> None:
    windows = {"target": "model.blocks.*.options.window_size", "choices": [2, 4], "tie": "each"}
    pools = {"target": "model.blocks.*.options.pool", "choices": [1, 2], "tie": "all"}
    space = SearchConfig.from_data({"dimensions": [OPERATORS, windows, pools]}).build_space()
    assert default_point(space)["model.blocks.0.options.window_size"] == 2
    expected = {"swin": {"window_size"}, "gvt": {"pool"}, "softmax": set[str]()}
    seen = set()
    for seed in range(30):
        for block in decode(space, space.sample(Random(seed))).model.blocks:
            seen.add(block.operator)
            assert set(block.options) == expected[block.operator]
    assert seen == set(expected)
    for find in (min_cost_point, max_cost_point):
        assert point_cost(space, find(space, "macs")).macs > 0
    check_feasible(space, Budget(max_macs=1_200_000))


def test_a_target_declared_twice_is_refused() -> None:
    warmup = {"target": "train.warmup", "low": 0.0, "high": 0.5}
    with pytest.raises(ConfigError, match=r"must not repeat a target, got 'train.warmup'"):
        SearchConfig.from_data({"dimensions": [warmup, warmup | {"high": 0.4}]})


def test_a_dimension_replaces_the_presets() -> None:
    config = SearchConfig.from_data(
        {"dimensions": [{"target": "model.blocks.*.num_heads", "choices": [1, 2], "tie": "all"}]}
    )
    space = config.build_space()
    assert "model.blocks.*.num_heads" in space.domains
    assert "model.blocks.0.num_heads" not in space.domains


@pytest.mark.parametrize(
    "path", ["train.epoch", "model.blocks.9.operator", "train.epochs.more", ""]
)
def test_unknown_setting_names_its_path(path: str) -> None:
    with pytest.raises(ConfigError):
        with_settings(RunConfig(), {path: 3})


def test_a_setting_around_dimensions_fixes_them_all() -> None:
    space = SearchConfig(space="digits", set={"model.blocks.*.mask": None}).build_space()
    assert not any("mask" in name for name in space.domains)
    assert {block.mask for block in space.base.model.blocks} == {None}


@pytest.mark.parametrize("path", ["model.blocks.1.operator", "model.blocks.0.conv_kernel"])
def test_a_setting_that_a_dimension_would_overrule_is_refused(path: str) -> None:
    value = "softmax" if path.endswith("operator") else 5
    with pytest.raises(ConfigError, match="is searched"):
        SearchConfig(space="digits", set={path: value}).build_space()


@pytest.mark.parametrize("target", ["data.num_train", "model.image_size", "model.num_classes"])
def test_what_the_data_fixes_cannot_be_searched(target: str) -> None:
    config = SearchConfig.from_data({"dimensions": [{"target": target, "choices": [100, 200]}]})
    with pytest.raises(ConfigError, match="cannot be searched"):
        config.build_space()
