from random import Random

import pytest
from hypothesis import assume, given, strategies as st

from castling.errors import ConfigError
from space.domain import Choice, Domain, FloatRange, IntRange, is_same
from space.kinds import domain_from_data


FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | FINITE
CHOICES = st.lists(VALUES, min_size=1, max_size=5, unique_by=repr).map(
    lambda values: Choice(tuple(values))
)
INT_RANGES = st.builds(
    lambda low, num_steps, step: IntRange(low, low + num_steps * step, step),
    st.integers(),
    st.integers(0, 20),
    st.integers(1, 10**6),
)
FLOAT_RANGES = st.tuples(FINITE, FINITE).map(lambda ends: FloatRange(min(ends), max(ends)))
LOG_RANGES = st.lists(st.floats(min_value=1e-300, max_value=1e300), min_size=2, max_size=2).map(
    lambda ends: FloatRange(min(ends), max(ends), log=True)
)
DOMAINS = CHOICES | INT_RANGES | FLOAT_RANGES | LOG_RANGES
SEEDS = st.integers(0, 2**32)


@given(domain=DOMAINS, seed=SEEDS)
def test_samples_lie_in_the_domain(domain: Domain, seed: int) -> None:
    rng = Random(seed)
    assert all(domain.sample(rng) in domain for _ in range(20))


@given(domain=DOMAINS)
def test_extremes_lie_in_the_domain(domain: Domain) -> None:
    assert all(value in domain for value in domain.extremes())


@given(domain=INT_RANGES | FLOAT_RANGES | LOG_RANGES, seed=SEEDS)
def test_extremes_of_a_range_enclose_its_samples(domain: IntRange | FloatRange, seed: int) -> None:
    ends = domain.extremes()
    assert len(set(ends)) == len(ends)
    assert min(ends) <= domain.sample(Random(seed)) <= max(ends)


@given(seed=SEEDS)
def test_samples_reach_every_value(seed: int) -> None:
    rng = Random(seed)
    assert {IntRange(3, 9, 2).sample(rng) for _ in range(200)} == {3, 5, 7, 9}
    assert {Choice((None, "a")).sample(rng) for _ in range(200)} == {None, "a"}


def test_a_logarithmic_range_spreads_over_orders_of_magnitude() -> None:
    rng = Random(0)
    domain = FloatRange(1e-4, 1.0, log=True)
    below_middle = sum(domain.sample(rng) < 1e-2 for _ in range(1000))
    assert 400 < below_middle < 600


def test_real_ends_may_be_written_as_whole_numbers() -> None:
    for domain in (FloatRange(1, 4), FloatRange(1, 4, log=True), FloatRange(1, 1, log=True)):
        assert domain.sample(Random(0)) in domain
        assert all(value in domain for value in domain.extremes())


@pytest.mark.parametrize(
    ("domain", "foreign"),
    [
        (Choice((1, 2)), True),  # equal to 1 for Python, another value in YAML
        (Choice((1, 2)), 1.0),
        (Choice((True,)), 1),
        (Choice((1.0,)), 1),
        (Choice((1.0,)), float("nan")),
        (Choice(("1",)), 1),
        (Choice((0,)), None),
        (Choice((0,)), False),
        (Choice(("tokens",)), "token"),
        (IntRange(1, 3), True),
        (IntRange(1, 3), 2.0),
        (IntRange(1, 3), "2"),
        (IntRange(1, 3), None),
        (IntRange(1, 3), 0),
        (IntRange(1, 3), 4),
        (IntRange(3, 9, 2), 4),  # between two steps
        (FloatRange(0.0, 2.0), 1),
        (FloatRange(0.0, 2.0), True),
        (FloatRange(0.0, 2.0), "1.0"),
        (FloatRange(0.0, 2.0), float("nan")),
        (FloatRange(0.0, 2.0), float("inf")),
        (FloatRange(0.0, 2.0), -1e-300),
        (FloatRange(0.0, 2.0), None),
    ],
)
def test_foreign_values_are_outside(domain: Domain, foreign: object) -> None:
    assert foreign not in domain


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Choice(()), "choices: must be one or more different values, got []"),
        (lambda: Choice((1, 2, 1)), "choices: must be one or more different values"),
        (lambda: Choice((1.0, float("nan"))), "choices: must be one or more different values"),
        (lambda: IntRange(4, 3), "range: must reach high from low in whole steps"),
        (lambda: IntRange(1, 4, 2), "range: must reach high from low in whole steps"),
        (lambda: IntRange(1, 3, 0), "range: must reach high from low in whole steps"),
        (lambda: IntRange(1, 3, -1), "range: must reach high from low in whole steps"),
        (lambda: FloatRange(2.0, 1.0), "range: must have low <= high"),
        (lambda: FloatRange(0.0, 1.0, log=True), "range: must have low <= high, and low > 0"),
        (lambda: FloatRange(float("nan"), 1.0), "range: must have finite ends"),
        (lambda: FloatRange(0.0, float("inf")), "range: must have finite ends"),
        (lambda: FloatRange(-1e308, 1e308), "range: must have finite ends"),
    ],
)
def test_invalid_domains_are_refused_in_one_sentence(make: object, sentence: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "domain", [Choice((1, True, 1.0, "1", None)), IntRange(5, 5), FloatRange(0.5, 0.5)]
)
def test_the_smallest_domains_are_allowed(domain: Domain) -> None:
    assert domain.sample(Random(0)) in domain


NARROW = (
    CHOICES
    | INT_RANGES
    | st.tuples(st.floats(1e-6, 1e6), st.floats(0.0, 1e3), st.booleans()).map(
        lambda parts: FloatRange(parts[0], parts[0] + parts[1], log=parts[2])
    )
)
"""Domains whose ends differ by no more than rounding allows to tell places apart."""


@given(domain=NARROW, seed=SEEDS)
def test_a_place_in_the_unit_interval_leads_back_to_its_value(domain: Domain, seed: int) -> None:
    value = domain.sample(Random(seed))
    place = domain.to_unit(value)
    assert 0.0 <= place <= 1.0
    found = domain.from_unit(place)
    assert found in domain
    assert found == pytest.approx(value) if isinstance(value, float) else is_same(found, value)


@given(domain=NARROW, place=st.floats(0.0, 1.0))
def test_every_place_has_a_value(domain: Domain, place: float) -> None:
    assert domain.from_unit(place) in domain


@given(domain=NARROW, seed=SEEDS)
def test_a_neighbour_is_another_value(domain: Domain, seed: int) -> None:
    assume(domain.size > 1)
    rng = Random(seed)
    value = domain.sample(rng)
    neighbour = domain.neighbour(value, rng)
    assert neighbour in domain
    values = domain.all_values()
    assert values is None or not is_same(neighbour, value)


@given(seed=SEEDS)
def test_near_values_are_neighbours_more_often_than_others(seed: int) -> None:
    rng = Random(seed)
    found = [IntRange(1, 9).neighbour(5, rng) for _ in range(400)]
    assert set(found) == {1, 2, 3, 4, 6, 7, 8, 9}
    assert sum(value in (4, 6) for value in found) > 200


@pytest.mark.parametrize("log", [False, True])
@given(seed=SEEDS)
def test_real_numbers_move_within_their_range_and_gather_at_no_end(seed: int, log: bool) -> None:
    rng, domain = Random(seed), FloatRange(1.0, 2.0, log)
    moved = [domain.moved(2.0, 0.1, rng) for _ in range(100)]
    assert all(value in domain for value in moved)
    assert moved.count(2.0) < 5
    assert sum(value > 1.7 for value in moved) > 90


@given(domain=NARROW, seed=SEEDS)
def test_features_lie_between_the_ends_or_tell_values_apart(domain: Domain, seed: int) -> None:
    numbers = [domain.features(domain.sample(Random(seed + shift))) for shift in (0, 1)]
    assert all(len(each) == domain.num_features for each in numbers)
    assert all(-1.0 <= number <= 1.0 for each in numbers for number in each)
    if not domain.is_ordered:
        distance = sum((a - b) ** 2 for a, b in zip(*numbers, strict=True))
        assert distance == pytest.approx(0.0) or distance == pytest.approx(1.0)


@given(domain=DOMAINS)
def test_a_domain_survives_its_own_data(domain: Domain) -> None:
    found = domain_from_data(domain.to_data())
    assert repr(found) == repr(domain)  # 1, 1.0 and True are equal, and not the same


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "domain.kind: must be one of choice, float, int"),
        ({"kind": "cube"}, "domain.kind: must be one of choice, float, int, got 'cube'"),
        ({"kind": ["int"]}, "domain.kind: must be one of choice, float, int, got ['int']"),
        ({"kind": "int", "low": 1}, "domain.high: "),
        ({"kind": "int", "low": "a", "high": 3}, "domain.low: "),
        ({"kind": "int", "low": 1, "high": 3, "log": True}, "domain.log: is not a field of a"),
        ({"kind": "int", "low": 3, "high": 1}, "range: must reach high from low"),
        ({"kind": "choice", "values": []}, "choices: must be one or more different values"),
        ({"kind": "choice", "values": [[1]]}, "domain.values.0"),
    ],
)
def test_data_of_no_domain_is_refused_in_one_sentence(
    data: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        domain_from_data(data)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
