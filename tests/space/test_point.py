from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, strategies as st

from castling.config import BlockConfig, ModelConfig, RunConfig, TrainConfig
from castling.errors import ConfigError, InvalidPointError
from castling.files import write_yaml
from castling.untrusted.plain_yaml import read_yaml
from space.difference import difference
from space.domain import Choice, Domain, FloatRange, IntRange, Value
from space.point import Dimension, Space, Tie
from space.presets import SPACES


KERNEL = Dimension(target="model.blocks.*.conv_kernel", domain=IntRange(3, 9, 2), tie="each")
FORM = Dimension(target="model.blocks.*.conv_form", domain=Choice(("tokens", "grid")), tie="stage")
FADE = Dimension(target="model.blocks.*.mask.end", domain=FloatRange(0.25, 0.75), tie="all")
WIDTH = Dimension(target="model.embed_width", domain=IntRange(16, 32, 8), tie="each")
LENGTH = Dimension(target="model.depth", domain=IntRange(2, 3))
SMALL = Space(
    name="small", base=RunConfig(), dimensions=(KERNEL, FORM, FADE, WIDTH, LENGTH), num_stages=2
)
POINT: dict[str, Value] = {
    "model.blocks.0.conv_kernel": 3,
    "model.blocks.1.conv_kernel": 5,
    "model.blocks.2.conv_kernel": 9,
    "model.blocks.stage0.conv_form": "tokens",
    "model.blocks.stage1.conv_form": "grid",
    "model.blocks.*.mask.end": 0.5,
    "model.embed_width": 24,
    "model.depth": 2,
}


def test_names_expand_by_tie_in_the_order_of_the_dimensions() -> None:
    assert list(SMALL.domains) == list(POINT)
    assert SMALL.domains["model.blocks.2.conv_kernel"] == KERNEL.domain
    assert SMALL.domains["model.blocks.stage1.conv_form"] == FORM.domain


def test_a_target_in_a_point_stands_for_all_blocks_and_a_block_goes_before() -> None:
    whole = {"model.blocks.*.conv_kernel": 3, "model.blocks.1.conv_kernel": 5, "model.depth": 2}
    for point in (whole, dict(reversed(whole.items()))):
        assert SMALL.each(point) == {
            "model.blocks.0.conv_kernel": 3,
            "model.blocks.1.conv_kernel": 5,
            "model.blocks.2.conv_kernel": 3,
            "model.depth": 2,
        }
    assert SMALL.each(POINT) == POINT
    assert SMALL.each({"model.blocks.*.typo": 1}) == {"model.blocks.*.typo": 1}  # check refuses it


@pytest.mark.parametrize(
    ("domain", "max_depth"),
    [(IntRange(2, 6), 6), (IntRange(5, 5), 5), (Choice((4, 2)), 4), (None, 3)],
)
def test_names_of_each_block_reach_the_largest_depth(
    domain: Domain | None, max_depth: int
) -> None:
    depth = () if domain is None else (Dimension(target="model.depth", domain=domain),)
    base = RunConfig(model=ModelConfig(blocks=(BlockConfig(),) * 3))
    space = Space(name="s", base=base, dimensions=(KERNEL, *depth))
    names = [name for name in space.domains if name != "model.depth"]
    assert space.max_depth == max_depth
    assert names == [f"model.blocks.{layer}.conv_kernel" for layer in range(max_depth)]


@given(depth=st.integers(1, 24), num_stages=st.integers(1, 5))
def test_stages_cut_the_depth_into_consecutive_runs(depth: int, num_stages: int) -> None:
    space = replace(SMALL, num_stages=num_stages)
    stages = [space.name_at(FORM, layer, depth) for layer in range(depth)]
    assert set(stages) <= set(space.domains)
    assert stages == sorted(stages)
    lengths = [stages.count(stage) for stage in set(stages)]
    assert max(lengths) - min(lengths) <= 1
    assert len(lengths) == min(depth, num_stages)


@pytest.mark.parametrize("tie", ["each", "stage", "all"])
@pytest.mark.parametrize("depth", [2, 3])
def test_every_layer_has_a_name_of_the_space(tie: Tie, depth: int) -> None:
    dimension = replace(KERNEL, tie=tie)
    space = replace(SMALL, dimensions=(dimension, LENGTH))
    names = [space.name_at(dimension, layer, depth) for layer in range(depth)]
    assert set(names) <= set(space.domains)
    assert len(set(names)) == {"each": depth, "stage": 2, "all": 1}[tie]


@pytest.mark.parametrize("name", ["digits", "levit_128"])
@given(seed=st.integers(0, 2**32))
def test_the_same_seed_draws_the_same_sequence_of_points(name: str, seed: int) -> None:
    def draw(seed: int) -> list[dict[str, Value]]:
        rng = Random(seed)
        return [SPACES[name]().sample(rng) for _ in range(3)]

    points = draw(seed)
    assert draw(seed) == points
    assert draw(seed + 1) != points
    assert points[0] != points[1]
    for point in points:
        SPACES[name]().check(point)


@pytest.mark.parametrize(
    ("change", "dimension", "sentence"),
    [
        ({"model.blocks.2.conv_kernel": None}, "model.blocks.2.conv_kernel", "must lie in"),
        ({"model.blocks.2.conv_kernel": 4}, "model.blocks.2.conv_kernel", "must lie in"),
        ({"model.embed_width": 24.0}, "model.embed_width", "must lie in"),
        ({"model.depth": True}, "model.depth", "must lie in"),
        ({"model.blocks.*.mask.end": float("nan")}, "model.blocks.*.mask.end", "must lie in"),
        ({"model.blocks.3.conv_kernel": 3}, "model.blocks.3.conv_kernel", "is not a dimension"),
        ({"train.epochs": 3}, "train.epochs", "is not a dimension"),
    ],
)
def test_check_refuses_foreign_names_and_values(
    change: dict[str, Value], dimension: str, sentence: str
) -> None:
    with pytest.raises(InvalidPointError, match=sentence) as caught:
        SMALL.check(POINT | change)
    assert caught.value.dimension == dimension
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(POINT))
def test_check_refuses_a_missing_name(name: str) -> None:
    with pytest.raises(InvalidPointError, match="is missing") as caught:
        SMALL.check({other: value for other, value in POINT.items() if other != name})
    assert caught.value.dimension == name


def test_check_accepts_a_whole_point() -> None:
    SMALL.check(POINT)


def test_a_target_may_not_be_repeated() -> None:
    with pytest.raises(ConfigError, match=r"dimensions: must not repeat .*embed_width"):
        replace(SMALL, dimensions=(WIDTH, KERNEL, replace(WIDTH, domain=IntRange(8, 16))))


@pytest.mark.parametrize(
    "domain",
    [IntRange(0, 3), Choice((2, None)), Choice((2, "3")), Choice((True,)), FloatRange(1.0, 3.0)],
)
def test_depths_are_whole_numbers_from_one(domain: Domain) -> None:
    with pytest.raises(ConfigError, match=r"^model\.depth: must have whole numbers from 1"):
        replace(SMALL, dimensions=(KERNEL, replace(LENGTH, domain=domain)))


def _dimensions(changed: Dimension) -> tuple[Dimension, ...]:
    return tuple(changed if dim.target == changed.target else dim for dim in SMALL.dimensions)


CHANGED = {
    "domain": replace(SMALL, dimensions=_dimensions(replace(KERNEL, domain=IntRange(3, 7, 2)))),
    "order of choices": replace(
        SMALL, dimensions=_dimensions(replace(FORM, domain=Choice(("grid", "tokens"))))
    ),
    "kind": replace(SMALL, dimensions=_dimensions(replace(LENGTH, domain=Choice((2, 3))))),
    "scale": replace(
        SMALL, dimensions=_dimensions(replace(FADE, domain=FloatRange(0.25, 0.75, log=True)))
    ),
    "tie": replace(SMALL, dimensions=_dimensions(replace(KERNEL, tie="all"))),
    "target": replace(
        SMALL,
        dimensions=(*SMALL.dimensions[1:], replace(KERNEL, target="model.blocks.*.num_heads")),
    ),
    "missing dimension": replace(SMALL, dimensions=SMALL.dimensions[1:]),
    "model": replace(SMALL, base=RunConfig(model=ModelConfig(num_classes=11))),
    "training": replace(SMALL, base=RunConfig(train=TrainConfig(epochs=41))),
    "stages": replace(SMALL, num_stages=3),
}


@pytest.mark.parametrize("what", list(CHANGED))
def test_spaces_differ_where_their_points_mean_something_else(what: str) -> None:
    found = difference(SMALL, CHANGED[what])
    assert found is not None
    assert found.first != found.second


def test_names_reasons_and_order_make_no_difference() -> None:
    renamed = replace(SMALL, name="other", dimensions=_dimensions(replace(KERNEL, why="so")))
    assert difference(SMALL, replace(renamed, dimensions=renamed.dimensions[::-1])) is None


@pytest.mark.parametrize("space", [SMALL, *CHANGED.values()])
def test_a_space_survives_a_file(space: Space, tmp_path: Path) -> None:
    write_yaml(tmp_path / "space.yaml", space.to_data())
    found = Space.from_data(read_yaml(tmp_path / "space.yaml"))
    assert difference(found, space) is None
    assert found.dimensions == space.dimensions


def test_every_default_is_written_out() -> None:
    """So that a default that changes later changes no run's space."""
    base = RunConfig(model=ModelConfig(blocks=(BlockConfig(operator="swin"),)))
    data = Space(name="s", base=base, dimensions=(KERNEL,)).to_data()
    assert data["base"]["model"]["blocks"][0]["options"] == {"window_size": 0}
    assert data["base"]["train"] == TrainConfig().to_data()
    assert data["dimensions"] == [
        {
            "target": "model.blocks.*.conv_kernel",
            "tie": "each",
            "domain": {"kind": "int", "low": 3, "high": 9, "step": 2},
            "why": "",
        }
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_stages": 0}, "num_stages: must be greater than or equal to 1"),
        ({"dimensions": [{"target": "x", "tie": "each"}]}, r"dimensions\.0\.domain: is required"),
        (
            {"dimensions": [{"target": "x", "tie": "all", "domain": {"kind": "cube"}}]},
            r"dimensions: x: domain\.kind: must be one of choice, float, int, got 'cube'",
        ),
        ({"warp": 3}, "warp: is not a field"),
    ],
)
def test_data_of_no_space_is_refused_in_one_sentence(
    change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        Space.from_data(SMALL.to_data() | change)
    assert "\n" not in str(caught.value)


def test_one_block_alone_is_no_target() -> None:
    with pytest.raises(ConfigError, match=r"every block.*write model\.blocks\.\*\.conv_kernel"):
        replace(SMALL, dimensions=(replace(KERNEL, target="model.blocks.1.conv_kernel"),))
