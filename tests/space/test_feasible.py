from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from math import prod
from random import Random

import pytest
from hypothesis import assume, example, given, settings, strategies as st

from castling.config import BlockConfig, ModelConfig, RunConfig
from castling.costs.cost import Cost
from castling.errors import ConfigError, InfeasibleBudgetError
from castling.operators import OPERATORS
from castling.operators.spec import fits_anywhere
from space.budget import Budget
from space.cost_model import CostModel
from space.decode import decode
from space.domain import Choice, Domain, FloatRange, IntRange, Value
from space.feasible import (
    Quantity,
    check_feasible,
    default_point,
    max_cost_point,
    min_cost_point,
    point_cost,
    projected,
)
from space.point import Dimension, Point, Space, Tie
from space.presets import SPACES


EVERYWHERE = [name for name, spec in OPERATORS.items() if spec.check is fits_anywhere]
"""The operators that serve every layer; those with rules have tests of their own."""


QUANTITIES: tuple[Quantity, ...] = ("macs", "params")
TIES = st.sampled_from(["each", "stage", "all"])
BLOCK_DOMAINS: dict[str, st.SearchStrategy[Domain]] = {
    "operator": st.permutations(EVERYWHERE).map(lambda names: Choice(tuple(names))),
    "conv_kernel": st.sampled_from([IntRange(1, 5, 2), IntRange(3, 5, 2), Choice((5, 1))]),
    "conv_form": st.permutations(["tokens", "grid"]).map(lambda forms: Choice(tuple(forms))),
    "conv_filters": st.permutations(["head", "channel"]).map(lambda kinds: Choice(tuple(kinds))),
    "num_heads": st.sampled_from([IntRange(1, 3), IntRange(2, 3), Choice((3, 1))]),
    "head_size": st.sampled_from([Choice((12, 4)), IntRange(8, 16, 8), Choice((4, 6))]),
    "mlp_ratio": st.sampled_from([FloatRange(0.5, 2.0), Choice((2.0, 1.0))]),
    "mask.end": st.just(FloatRange(0.25, 0.9)),
}
BASE_BLOCKS = st.builds(
    BlockConfig,
    operator=st.sampled_from(EVERYWHERE),
    num_heads=st.integers(1, 3),
    head_size=st.sampled_from([4, 6, 12]),
    conv_kernel=st.sampled_from([1, 3, 5]),
    conv_form=st.sampled_from(["tokens", "grid"]),
    mlp_ratio=st.sampled_from([0.5, 1.0, 2.0]),
)


@st.composite
def small_spaces(draw: st.DrawFn, max_points: int = 600) -> Space:
    """Spaces of few points whose dimensions are tied in every way, over unequal base blocks."""
    fields = draw(
        st.lists(st.sampled_from(list(BLOCK_DOMAINS)), min_size=1, max_size=4, unique=True)
    )
    dimensions = [
        Dimension(
            target=f"model.blocks.*.{field}", domain=draw(BLOCK_DOMAINS[field]), tie=draw(TIES)
        )
        for field in fields
    ]
    if draw(st.booleans()):
        depths = st.sampled_from([IntRange(1, 3), IntRange(2, 3), Choice((2, 1))])
        dimensions.append(Dimension(target="model.depth", domain=draw(depths)))
    if draw(st.booleans()):
        widths = st.sampled_from([IntRange(8, 16, 8), Choice((16, 8))])
        dimensions.append(Dimension(target="model.embed_width", domain=draw(widths)))
    model = ModelConfig(
        image_size=draw(st.sampled_from([(4, 4), (4, 8), (6, 6)])),
        embed_width=8,
        pooling=draw(st.sampled_from(["cls", "mean"])),
        blocks=tuple(draw(st.lists(BASE_BLOCKS, min_size=1, max_size=3))),
    )
    space = Space(
        name="small",
        base=RunConfig(model=model),
        dimensions=tuple(draw(st.permutations(dimensions))),
        num_stages=draw(st.integers(1, 3)),
    )
    assume(prod(len(values_of(domain)) for domain in space.domains.values()) <= max_points)
    return space


def values_of(domain: Domain) -> list[Value]:
    """Every value; of real numbers the ends and the middle."""
    if isinstance(domain, Choice):
        return list(domain.values)
    if isinstance(domain, IntRange):
        return list(range(domain.low, domain.high + 1, domain.step))
    return [domain.low, (domain.low + domain.high) / 2, domain.high]


def every_point(space: Space) -> Iterator[Point]:
    values = [values_of(domain) for domain in space.domains.values()]
    for chosen in product(*values):
        yield dict(zip(space.domains, chosen, strict=True))


def count(spent: Cost, quantity: Quantity) -> int:
    return spent.macs if quantity == "macs" else spent.params


def of_two_blocks(*dimensions: Dimension) -> Space:
    block = BlockConfig(conv_form="grid", num_heads=1, head_size=4, mlp_ratio=1.0)
    model = ModelConfig(image_size=(4, 4), patch_size=1, embed_width=8, blocks=(block, block))
    return Space(name="two", base=RunConfig(model=model), dimensions=dimensions)


def per_block(field: str, domain: Domain, tie: Tie) -> Dimension:
    return Dimension(target=f"model.blocks.*.{field}", domain=domain, tie=tie)


# What the layers share pays off only once they choose an operator that reads it: a search that
# changes one group of dimensions at a time ends too high.
HIDDEN_CHEAPEST = of_two_blocks(
    per_block("operator", Choice(("softmax", "linear_angular")), "each"),
    per_block("conv_kernel", Choice((9, 3)), "all"),
)
HIDDEN_DEAREST = of_two_blocks(
    per_block("operator", Choice(("linear_angular", "softmax")), "each"),
    per_block("conv_kernel", IntRange(3, 9, 2), "all"),
)
HIDDEN_BY_FORM = of_two_blocks(
    per_block("operator", Choice(("softmax", "linear_angular")), "each"),
    per_block("conv_form", Choice(("grid", "tokens")), "stage"),
    per_block("conv_kernel", Choice((5,)), "all"),
)


@given(space=small_spaces())
@settings(max_examples=15)
@example(space=HIDDEN_CHEAPEST)
@example(space=HIDDEN_DEAREST)
@example(space=HIDDEN_BY_FORM)
def test_cheapest_and_dearest_are_those_of_enumeration(space: Space) -> None:
    costs = [point_cost(space, point) for point in every_point(space)]
    for quantity in QUANTITIES:
        counts = [count(spent, quantity) for spent in costs]
        low, high = min_cost_point(space, quantity), max_cost_point(space, quantity)
        space.check(low)
        space.check(high)
        assert count(point_cost(space, low), quantity) == min(counts)
        assert count(point_cost(space, high), quantity) == max(counts)


PRESETS = ("digits", "levit_128")
"""One of ours and one of timm's; the others differ in sizes only."""


@cache
def preset_ends(name: str, quantity: Quantity) -> tuple[int, int]:
    space = SPACES[name]()
    low, high = (
        point_cost(space, find(space, quantity)) for find in (min_cost_point, max_cost_point)
    )
    return count(low, quantity), count(high, quantity)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("quantity", QUANTITIES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_no_point_of_a_preset_lies_beyond_its_ends(
    name: str, quantity: Quantity, seed: int
) -> None:
    space = SPACES[name]()
    low, high = preset_ends(name, quantity)
    assert low <= count(point_cost(space, space.sample(Random(seed))), quantity) <= high


@given(space=small_spaces(max_points=300), data=st.data())
def test_a_feasible_point_is_found_exactly_where_there_is_one(
    space: Space, data: st.DataObject
) -> None:
    """Limits lie at the costs of points or just below, where the two bounds conflict most."""
    costs = [point_cost(space, point) for point in every_point(space)]
    limits = {
        quantity: data.draw(
            st.none()
            | st.sampled_from([count(spent, quantity) for spent in costs]).flatmap(
                lambda limit: st.sampled_from([limit, limit - 1])
            )
        )
        for quantity in QUANTITIES
    }
    budget = Budget(max_macs=limits["macs"], max_params=limits["params"])
    within = [
        spent.macs
        for spent in costs
        if budget.admits({"macs": spent.macs, "params": spent.params})
    ]
    if within:
        found = check_feasible(space, budget)
        space.check(found)
        spent = point_cost(space, found)
        assert budget.admits({"macs": spent.macs, "params": spent.params})
        assert spent.macs == min(within)
    else:
        with pytest.raises((InfeasibleBudgetError, ConfigError)):
            check_feasible(space, budget)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_an_impossible_bound_is_answered_with_the_cheapest_cost(
    name: str, quantity: Quantity
) -> None:
    space = SPACES[name]()
    least = count(point_cost(space, min_cost_point(space, quantity)), quantity)
    check_feasible(space, Budget.from_data({f"max_{quantity}": least}))
    with pytest.raises(InfeasibleBudgetError, match=f"must be at least {least:,}") as caught:
        check_feasible(space, Budget.from_data({f"max_{quantity}": least - 1}))
    assert str(caught.value).startswith(f"max_{quantity} ")
    assert "\n" not in str(caught.value)
    assert caught.value.cheapest == least


TRADE_OFF = of_two_blocks(
    per_block("operator", Choice(("linear_angular", "softmax")), "each"),
    per_block("conv_kernel", Choice((3,)), "all"),
)
"""Castled layers have fewer MACs, softmax layers fewer parameters."""


def trade_off_costs() -> list[Cost]:
    """No, one and two layers of softmax."""
    operators = ["model.blocks.0.operator", "model.blocks.1.operator"]
    return [
        point_cost(
            TRADE_OFF,
            {
                name: "softmax" if layer < num_softmax else "linear_angular"
                for layer, name in enumerate(operators)
            }
            | {"model.blocks.*.conv_kernel": 3},
        )
        for num_softmax in range(3)
    ]


def test_two_bounds_that_only_a_mixture_meets_are_feasible() -> None:
    castled, mixed, softmax = trade_off_costs()
    assert castled.macs < mixed.macs < softmax.macs
    assert castled.params > mixed.params > softmax.params
    budget = Budget(max_macs=mixed.macs, max_params=mixed.params)
    assert point_cost(TRADE_OFF, check_feasible(TRADE_OFF, budget)) == mixed


def test_two_bounds_that_no_point_meets_are_refused_in_one_sentence() -> None:
    _, mixed, softmax = trade_off_costs()
    sentence = (
        f"budget: must admit a point in both bounds, but within max_params={mixed.params:,} the "
        f"fewest MACs are {mixed.macs:,}, got {mixed.macs - 1}"
    )
    with pytest.raises(ConfigError) as caught:
        check_feasible(TRADE_OFF, Budget(max_macs=mixed.macs - 1, max_params=mixed.params))
    assert str(caught.value) == sentence
    check_feasible(TRADE_OFF, Budget(max_macs=softmax.macs, max_params=mixed.params - 1))


@pytest.mark.parametrize("name", PRESETS)
@given(seed=st.integers(0, 2**32), share=st.floats(0.0, 1.0), quantity=st.sampled_from(QUANTITIES))
@settings(max_examples=6)
def test_repaired_points_are_within_the_budget(
    name: str, seed: int, share: float, quantity: Quantity
) -> None:
    space, rng = SPACES[name](), Random(seed)
    point = space.sample(rng)
    low, high = preset_ends(name, quantity)
    budget = Budget.from_data({f"max_{quantity}": low + int(share * (high - low))})
    anchor = check_feasible(space, budget)
    before = dict(point)
    mended, run = projected(space, point, fits(budget), anchor, rng)
    space.check(mended)
    spent = point_cost(space, mended)
    assert run == decode(space, mended)
    assert budget.admits({"macs": spent.macs, "params": spent.params})
    assert point == before
    assert all(value in (point[key], anchor[key]) for key, value in mended.items())
    assert all(value == point[key] for key, value in mended.items() if is_free(key))
    was = point_cost(space, point)
    if budget.admits({"macs": was.macs, "params": was.params}):
        assert mended == point


def test_repairs_differ_with_the_generator_and_repeat_with_its_seed() -> None:
    space, budget = SPACES["digits"](), Budget(max_macs=400_000)
    point, anchor = max_cost_point(space, "macs"), check_feasible(space, budget)
    repairs = [
        projected(space, point, fits(budget), anchor, Random(seed))[0] for seed in (0, 0, 1, 2, 3)
    ]
    assert repairs[0] == repairs[1]
    assert any(repairs[0] != repair for repair in repairs[2:])
    assert all(repair != anchor for repair in repairs)


def is_free(name: str) -> bool:
    """Return whether a name changes no cost: it is training's or a mask's."""
    return name.startswith("train.") or ".mask." in name


def fits(budget: Budget) -> Callable[[RunConfig], bool]:
    return lambda run: CostModel()(run.model).within(budget)


@given(space=small_spaces(max_points=10**9))
def test_the_default_point_is_the_base_where_domains_allow(space: Space) -> None:
    point = default_point(space)
    space.check(point)
    blocks = space.base.model.blocks
    depth = space.depth(point)
    if "model.depth" in space.domains and len(blocks) in space.domains["model.depth"]:
        assert depth == len(blocks)
    for layer, block in enumerate(decode(space, point).model.blocks):
        check_block_follows(space, layer, block, blocks[min(layer, len(blocks) - 1)])


def check_block_follows(space: Space, layer: int, block: BlockConfig, base: BlockConfig) -> None:
    for field in BLOCK_DOMAINS:
        domain = space.domains.get(f"model.blocks.{layer}.{field}")
        if domain is None or "." in field:
            continue
        value = getattr(base, field)
        expected = value if value in domain else domain.extremes()[0]
        assert getattr(block, field) == expected


def test_blocks_deeper_than_the_base_default_to_its_last() -> None:
    last = BlockConfig(operator="softmax", num_heads=2)
    space = Space(
        name="deeper",
        base=RunConfig(model=ModelConfig(blocks=(BlockConfig(num_heads=1), last))),
        dimensions=(
            Dimension(target="model.depth", domain=IntRange(3, 4)),
            per_block("operator", Choice(tuple(EVERYWHERE)), "each"),
            per_block("num_heads", IntRange(1, 4), "stage"),
        ),
    )
    point = default_point(space)
    assert point["model.depth"] == 3
    assert [point[f"model.blocks.{layer}.operator"] for layer in (0, 1, 2, 3)] == [
        "linear_angular", "softmax", "softmax", "softmax"
    ]  # fmt: skip
    assert point["model.blocks.stage1.num_heads"] == 2


def test_values_outside_their_domain_default_to_its_first() -> None:
    space = of_two_blocks(
        per_block("head_size", Choice((16, 8)), "all"),
        per_block("num_heads", IntRange(2, 3), "each"),
        Dimension(target="train.learning_rate", domain=FloatRange(0.1, 0.2)),
    )
    point = default_point(space)
    assert set(point.values()) == {16, 2, 0.1}


def test_too_many_combinations_are_refused_before_they_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = of_two_blocks(
        per_block("operator", Choice(("softmax", "linear_angular")), "all"),
        per_block("conv_form", Choice(("tokens", "grid")), "all"),
    )
    monkeypatch.setattr("space.feasible.MOST_COMBINATIONS", 4)
    min_cost_point(space, "macs")
    monkeypatch.setattr("space.feasible.MOST_COMBINATIONS", 3)
    with pytest.raises(ConfigError, match="at most 3 combinations"):
        min_cost_point(space, "macs")
