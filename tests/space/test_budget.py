from typing import Any

import pytest
from hypothesis import given, strategies as st

from castling.errors import ConfigError
from castling.sizes import SUFFIXES, format_size, parse_size
from space.budget import Budget, parse_bounds


COUNTS = st.integers(1, 10**15)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1.2M", 1_200_000),
        ("900k", 900_000),
        ("900K", 900_000),
        ("1.3G", 1_300_000_000),
        ("1g", 10**9),
        ("2m", 2_000_000),
        ("0.5k", 500),
        ("1T", 10**12),
        (" 7 M ", 7_000_000),
        ("1253683200", 1_253_683_200),
        ("1.0", 1),
        (42, 42),
    ],
)
def test_sizes_are_read_as_written(text: str | int, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "abc", "M", "1.2X", "1e6", "1,000", "1.M", ".5M", "-1", "-2M", "0", "0M",
        "0.0001k", "1.5", "1.2345k", "nan", "inf", "1 2M", "1.2MM", 0, -1, 1.5, True, False, None,
    ],
)  # fmt: skip
def test_what_is_no_positive_whole_count_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match=r"^max_macs: must be a positive count"):
        parse_size(text, "max_macs")  # type: ignore[arg-type]


@given(count=COUNTS)
def test_plain_numbers_are_themselves(count: int) -> None:
    assert parse_size(count) == parse_size(str(count)) == count


@given(count=st.integers(1, 10**6), suffix=st.sampled_from(sorted(SUFFIXES)))
def test_a_suffix_multiplies(count: int, suffix: str) -> None:
    assert parse_size(f"{count}{suffix}") == count * SUFFIXES[suffix]


@given(count=COUNTS)
def test_formatted_sizes_read_back_to_three_digits(count: int) -> None:
    read = parse_size(format_size(count))
    assert abs(read - count) <= 0.005 * count
    assert format_size(read) == format_size(count)


@given(count=COUNTS)
def test_formatted_sizes_have_at_most_three_digits_below_a_thousand_t(count: int) -> None:
    digits = format_size(min(count, 10**14)).rstrip("kMGT").replace(".", "")
    assert len(digits) <= 3


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1"), (999, "999"), (1000, "1.00k"), (1_254_000, "1.25M"), (12_345_678, "12.3M"),
     (999_999, "1.00M"), (123_456, "123k"), (1_253_683_200, "1.25G"), (10**12, "1.00T")],
)  # fmt: skip
def test_sizes_are_written_with_three_digits(count: int, text: str) -> None:
    assert format_size(count) == text


@given(macs=COUNTS, params=COUNTS, max_macs=st.none() | COUNTS, max_params=st.none() | COUNTS)
def test_a_budget_admits_what_exceeds_no_bound(
    macs: int, params: int, max_macs: int | None, max_params: int | None
) -> None:
    budget = Budget(max_macs=max_macs, max_params=max_params)
    over = (max_macs is not None and macs > max_macs) or (
        max_params is not None and params > max_params
    )
    assert budget.admits({"macs": macs, "params": params}) is not over
    assert (budget.violation({"macs": macs, "params": params}) > 0.0) is over


@given(limit=st.integers(1, 10**18))
def test_bounds_are_exact_to_the_last_count(limit: int) -> None:
    budget = Budget(max_macs=limit)
    assert budget.violation({"macs": limit, "params": 1}) == 0.0
    assert budget.violation({"macs": limit + 1, "params": 1}) > 0.0
    assert budget.violation({"macs": limit - 1, "params": 1}) < 0.0


def test_the_violation_is_the_largest_relative_overrun() -> None:
    budget = Budget(max_macs=100, max_params=10)
    assert budget.violation({"macs": 150, "params": 10}) == 0.5
    assert budget.violation({"macs": 150, "params": 20}) == 1.0
    assert budget.violation({"macs": 50, "params": 9}) == pytest.approx(-0.1)
    assert Budget().violation({"macs": 10**12, "params": 10**12}) < 0.0


def test_budgets_take_written_sizes() -> None:
    assert Budget.from_data({"max_macs": "1.2M", "max_params": 5000}) == Budget(
        max_macs=1_200_000, max_params=5000
    )


@pytest.mark.parametrize("value", ["a lot", "0", 0, -5, True, 1.5, "1.5", [1]])
def test_budgets_refuse_what_is_no_size(value: object) -> None:
    with pytest.raises(ConfigError, match="max_macs") as caught:
        Budget.from_data({"max_macs": value})
    assert "\n" not in str(caught.value)


def test_every_metric_can_be_bounded_on_its_worse_side() -> None:
    budget = Budget.from_data(
        {
            "max_macs": "1.2M",
            "max": {"params": "60k", "train_seconds": 60, "training_macs": "2M"},
            "min": {"top1": "90%", "images_per_s": "1k"},
        }
    )
    assert budget.max_params == 60_000
    assert budget.max == {"train_seconds": 60.0, "training_macs": 2_000_000}
    assert budget.min == {"top1": 0.9, "images_per_s": 1_000.0}
    assert Budget.from_data(budget.to_data()) == budget
    assert budget.words() == (
        "1,200,000 MACs and 60,000 parameters and train_seconds at most 60.0 s and training_macs "
        "at most 2,000,000 MACs and top1 at least 90.00% and images_per_s at least 1000 images/s"
    )
    assert budget.words(short=True).startswith("1.20M MACs and 60.0k parameters")
    assert [bound.metric.name for bound in budget.bounds("cost")] == [
        *("macs", "params", "training_macs")
    ]


def test_budgets_of_version_1_are_read() -> None:
    stored = {"max_macs": 400_000, "max_params": None, "max_latency_ms": None}
    assert Budget.from_data(stored) == Budget(max_macs=400_000)


def test_costs_and_what_training_measures_are_held_against_their_own_bounds() -> None:
    budget = Budget(max_macs=100, min={"top1": 0.8}, max={"loss": 2.0})
    values = {"macs": 150, "top1": 0.6, "loss": 1.0}
    assert budget.violation(values, "cost") == 0.5
    assert budget.violation(values, "training") == pytest.approx(0.25)
    assert budget.violation(values) == 0.5
    assert budget.admits({"macs": 100}, "cost")
    assert budget.admits({"top1": 0.8, "loss": 2.0}, "training")
    assert budget.violation({"macs": 1, "top1": 0.9}) == float("inf")  # no loss is in no bound
    assert not Budget(max={"loss": 1}).admits({"loss": float("nan")})


def test_bounds_put_over_others_replace_those_of_the_same_metric() -> None:
    recipe = Budget(max_macs=100, max={"loss": 2.0}, min={"top1": 0.5})
    given = Budget(max_params=5, max={"train_seconds": 9}, min={"top1": 0.9})
    assert given.over(recipe) == Budget(
        max_macs=100, max_params=5, max={"loss": 2.0, "train_seconds": 9}, min={"top1": 0.9}
    )


@pytest.mark.parametrize("given", [["x"], ["=3"], ["loss=1", "loss=2"]])
def test_bounds_that_are_not_written_as_one_are_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^--max: must be METRIC=VALUE"):
        parse_bounds(given, "--max")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max": {"train_seconds": 0.001}}, "train_seconds at most 0.001 s"),
        ({"max": {"train_seconds": 60}}, "train_seconds at most 60.0 s"),
        ({"min": {"top1": "99.999%"}}, "top1 at least 99.999%"),
        ({"min": {"top1": "90%"}}, "top1 at least 90.00%"),
        ({"max_latency_ms": 1234.5678}, "1234.5678 ms"),
    ],
)
def test_a_bound_is_written_as_it_was_asked_for(limits: dict[str, Any], words: str) -> None:
    """A table's digits would say 0.0 s, or 100.00%."""
    assert Budget.of(**limits).words() == words
