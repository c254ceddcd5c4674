from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from castling.config import BlockConfig, MaskSchedule, ModelConfig, RunConfig
from castling.errors import ConfigError, InvalidPointError
from castling.model.check import digest
from space.catalogue import catalogue
from space.decode import active, decode
from space.domain import Choice, Domain, FloatRange, IntRange, Value
from space.feasible import default_point
from space.point import Dimension, Point, Space, Tie
from space.presets import SPACES


PRESETS = {name: SPACES[name]() for name in ("digits", "imagenet", "levit_128")}
"""One small, one large, and one of timm's; the others differ in sizes only."""
SEEDS = st.integers(0, 2**32)


def flat(data: object, path: str = "") -> dict[str, Any]:
    """The leaves of nested mappings and lists by their dotted paths."""
    if isinstance(data, Mapping):
        items = [(str(key), value) for key, value in data.items()]
    elif isinstance(data, list):
        items = [(str(index), value) for index, value in enumerate(data)]
    else:
        return {path.removeprefix("."): data}
    return {
        name: leaf for key, value in items for name, leaf in flat(value, f"{path}.{key}").items()
    }


def changed_paths(first: RunConfig, second: RunConfig) -> set[str]:
    ours, theirs = flat(first.to_data()), flat(second.to_data())
    return {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}


def paths_of(space: Space, name: str, depth: int) -> set[str]:
    """The config paths that a name of a point should set."""
    if not name.startswith("model.blocks."):
        return {name}
    key, field = name.removeprefix("model.blocks.").split(".", 1)
    if key == "*":
        layers = range(depth)
    elif key.startswith("stage"):
        layers = [
            layer
            for layer in range(depth)
            if layer * space.num_stages // depth == int(key.removeprefix("stage"))
        ]
    else:
        layers = [int(key)] if int(key) < depth else []
    return {f"model.blocks.{layer}.{field}" for layer in layers}


def other_value(domain: Domain, value: Value, rng: Random) -> Value:
    """A value of the domain that is not the given one."""
    candidates = [*domain.extremes(), *(domain.sample(rng) for _ in range(20))]
    return next(candidate for candidate in candidates if candidate != value)


def check_every_name_reaches_its_fields(space: Space, seed: int) -> None:
    rng = Random(seed)
    point = space.sample(rng)
    depth = space.depth(point)
    run = decode(space, point)
    for name, domain in space.domains.items():
        if name == "model.depth" or len(domain.extremes()) == 1:
            continue
        value = other_value(domain, point[name], rng)
        varied = decode(space, {**point, name: value})
        expected = paths_of(space, name, depth)
        assert changed_paths(run, varied) == expected
        leaves = flat(varied.to_data())
        assert all(leaves[path] == value for path in expected)


@pytest.mark.parametrize("name", list(PRESETS))
@given(seed=SEEDS)
@settings(max_examples=10)
def test_every_name_of_a_preset_changes_exactly_its_fields(name: str, seed: int) -> None:
    check_every_name_reaches_its_fields(PRESETS[name], seed)


@pytest.mark.parametrize("tie", ["each", "stage", "all"])
@pytest.mark.parametrize("target", [target for target in catalogue() if target != "model.depth"])
def test_every_entry_of_the_catalogue_changes_exactly_its_fields(target: str, tie: Tie) -> None:
    base = RunConfig(model=ModelConfig(blocks=(BlockConfig(),) * 3))
    dimensions = (replace(catalogue()[target], tie=tie), catalogue()["model.depth"])
    space = Space(name="one", base=base, dimensions=dimensions)
    for seed in range(5):
        check_every_name_reaches_its_fields(space, seed)


@pytest.mark.parametrize("name", list(PRESETS))
@given(seed=SEEDS)
def test_the_config_holds_the_values_of_the_active_names(name: str, seed: int) -> None:
    space = PRESETS[name]
    point = space.sample(Random(seed))
    depth = space.depth(point)
    run = decode(space, point)
    leaves = flat(run.to_data())
    for chosen, value in active(space, point).items():
        if chosen == "model.depth":
            assert len(run.model.blocks) == value
            continue
        read = {leaves[path] for path in paths_of(space, chosen, depth)}
        assert read == {value}


@pytest.mark.parametrize("name", ["digits", "levit_128"])
@given(seed=SEEDS)
@settings(max_examples=4)
def test_exactly_the_active_names_change_the_digest(name: str, seed: int) -> None:
    space, rng = PRESETS[name], Random(seed)
    point = space.sample(rng)
    before = digest(decode(space, point))
    used = active(space, point)
    assert set(used) <= set(space.domains)
    for chosen, domain in space.domains.items():
        if len(domain.extremes()) == 1:
            continue
        varied = {**point, chosen: other_value(domain, point[chosen], rng)}
        assert (digest(decode(space, varied)) != before) is (chosen in used), chosen


def _softmax_everywhere(space: Space) -> Point:
    point = space.sample(Random(0))
    return point | {name: "softmax" for name in point if name.endswith(".operator")}


@pytest.mark.parametrize("name", list(PRESETS))
def test_fields_that_no_operator_reads_are_inactive(name: str) -> None:
    used = active(PRESETS[name], _softmax_everywhere(PRESETS[name]))
    fields = {chosen.rsplit(".", 1)[-1] for chosen in used}
    sizes = set() if name == "levit_128" else {"num_heads", "head_size", "mlp_ratio"}
    assert {"operator"} | sizes <= fields
    assert not {"conv_kernel", "conv_form", "start_multiple"} & fields
    assert not any(".mask." in chosen for chosen in used)


def test_one_layer_that_reads_a_tied_field_makes_it_active() -> None:
    space = PRESETS["digits"]
    point = dict(_softmax_everywhere(space))
    assert "model.blocks.*.mask.end" not in active(space, point)
    point["model.blocks.0.operator"] = "linear_angular"
    used = active(space, point)
    assert "model.blocks.*.mask.end" in used
    assert "model.blocks.stage0.mask.shape" in used
    assert "model.blocks.stage1.mask.shape" not in used


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_depth_sets_the_number_of_blocks_and_hides_the_rest(depth: int) -> None:
    space = PRESETS["digits"]
    point = space.sample(Random(1)) | {"model.depth": depth}
    assert len(decode(space, point).model.blocks) == depth
    layers = {
        int(chosen.split(".")[2])
        for chosen in active(space, point)
        if chosen.endswith(".operator")
    }
    assert layers == set(range(depth))


def test_the_bases_last_block_stands_in_for_missing_deeper_ones() -> None:
    first, last = BlockConfig(num_heads=1), BlockConfig(num_heads=2, operator="softmax")
    space = Space(
        name="deep",
        base=RunConfig(model=ModelConfig(blocks=(first, last))),
        dimensions=(Dimension(target="model.depth", domain=IntRange(1, 4)),),
    )
    assert decode(space, {"model.depth": 1}).model.blocks == (first,)
    assert decode(space, {"model.depth": 4}).model.blocks == (first, last, last, last)


def test_without_a_depth_dimension_the_base_decides() -> None:
    space = replace(PRESETS["digits"], dimensions=())
    assert decode(space, {}) == space.base
    assert active(space, {}) == {}


def test_values_that_only_fit_together_are_put_together() -> None:
    """9 pixels need patches of 3: neither change alone is a valid model."""
    space = Space(
        name="together",
        base=RunConfig(model=ModelConfig(image_size=(8, 8), patch_size=2)),
        dimensions=(
            Dimension(target="model.image_size", domain=Choice((8, 9))),
            Dimension(target="model.patch_size", domain=Choice((2, 3))),
        ),
    )
    model = decode(space, {"model.image_size": 9, "model.patch_size": 3}).model
    assert (model.image_size, model.patch_size) == ((9, 9), 3)
    with pytest.raises(ConfigError, match=r"model\.patch_size: must divide the image"):
        decode(space, {"model.image_size": 9, "model.patch_size": 2})


@pytest.mark.parametrize(
    ("field", "domain", "value", "sentence"),
    [
        ("conv_kernel", IntRange(3, 4), 4, r"model\.blocks\.0\.conv_kernel: must be odd"),
        ("mask.start", FloatRange(0.0, 1.0), 0.9, r"blocks\.0\.mask\.start: must not exceed end"),
        ("operator", Choice(("softmax", "magic")), "magic", r"blocks\.0\.operator: must be one"),
        ("speed", IntRange(1, 2), 1, r"speed: is not a field of BlockConfig"),
    ],
)
def test_values_that_make_no_model_are_refused_in_one_sentence(
    field: str, domain: Domain, value: Value, sentence: str
) -> None:
    base = RunConfig(model=ModelConfig(blocks=(BlockConfig(mask=MaskSchedule(end=0.5)),)))
    dimension = Dimension(target=f"model.blocks.*.{field}", domain=domain)
    space = Space(name="odd", base=base, dimensions=(dimension,))
    with pytest.raises(ConfigError, match=sentence) as caught:
        decode(space, {dimension.target.path: value})
    assert "\n" not in str(caught.value)


def test_a_point_of_another_space_is_refused() -> None:
    with pytest.raises(InvalidPointError):
        decode(PRESETS["digits"], default_point(PRESETS["imagenet"]))


def test_decoding_leaves_base_and_point_as_they_were() -> None:
    space = SPACES["digits"]()
    before, point = space.base.to_data(), space.sample(Random(3))
    copy = dict(point)
    decode(space, point)
    assert space.base.to_data() == before
    assert point == copy
