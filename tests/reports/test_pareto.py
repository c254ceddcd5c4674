from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies as st

from castling.errors import ConfigError
from reports.pareto import (
    dominated,
    dominated_naive,
    hypervolume,
    nondominated,
    running_hypervolume,
)
from reports.records import Direction


Case = tuple[np.ndarray, list[Direction]]

few_values = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, np.inf, -np.inf, np.nan])
"""Few enough for ties and exact duplicates in most examples."""


@st.composite
def cases(draw: st.DrawFn, *, finite: bool = False, most: int = 24) -> Case:
    """Points of one to three objectives, with ties, duplicates and, unless finite, NaN."""
    directions: list[Direction] = draw(
        st.lists(st.sampled_from(["max", "min"]), min_size=1, max_size=3)
    )
    value = st.one_of(few_values, st.floats(-2, 2))
    if finite:
        value = value.filter(np.isfinite)
    row = st.lists(value, min_size=len(directions), max_size=len(directions))
    points = draw(st.lists(row, max_size=most))
    return np.array(points).reshape(-1, len(directions)), directions


def better(directions: Sequence[Direction]) -> np.ndarray:
    return np.array([1.0 if direction == "max" else -1.0 for direction in directions])


@given(cases())
def test_fast_dominance_is_dominance(case: Case) -> None:
    assert (dominated(*case) == dominated_naive(*case)).all()


@given(cases())
def test_the_fast_front_is_the_naive_front(case: Case) -> None:
    points, _ = case
    first = np.array(
        [not any((points[:i] == point).all(axis=1)) for i, point in enumerate(points)], dtype=bool
    )
    naive = ~dominated_naive(*case) & ~np.isnan(points).any(axis=1) & first
    assert (nondominated(*case) == naive).all()


@given(cases())
def test_no_member_dominates_another(case: Case) -> None:
    points, directions = case
    front = points[nondominated(*case)]
    assert not dominated_naive(front, directions).any()


@given(cases())
def test_who_is_not_a_member_is_beaten_equalled_or_unmeasured(case: Case) -> None:
    points, directions = case
    member = nondominated(*case)
    front = points[member] * better(directions)
    for point in points[~member] * better(directions):
        assert np.isnan(point).any() or (front >= point).all(axis=1).any()


@given(cases(), st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(case: Case, random: object) -> None:
    points, directions = case
    order = np.random.default_rng(random.getrandbits(32)).permutation(len(points))  # type: ignore[attr-defined]
    front, shuffled = points[nondominated(*case)], points[order]
    shuffled = shuffled[nondominated(shuffled, directions)]
    assert sorted(map(tuple, front + 0.0)) == sorted(map(tuple, shuffled + 0.0))


@given(cases(), st.integers(0, 2))
def test_a_turned_objective_gives_the_same_front(case: Case, turned: int) -> None:
    points, directions = case
    axis = turned % len(directions)
    flipped = points.copy()
    flipped[:, axis] *= -1.0
    ways = list(directions)
    ways[axis] = "min" if ways[axis] == "max" else "max"
    assert (nondominated(points, directions) == nondominated(flipped, ways)).all()


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([[0.5, 10]], [True]),
        ([[0.5, 10], [0.6, 10]], [False, True]),
        ([[0.5, 10], [0.5, 9]], [False, True]),
        ([[0.5, 10], [0.5, 10], [0.4, 5]], [True, False, True]),
        ([[np.nan, 1], [0.1, 10]], [False, True]),
        ([[np.nan, np.nan]], [False]),
        ([[0.5, np.inf], [0.4, 10]], [True, True]),
    ],
)
def test_accuracy_against_macs(points: list[list[float]], front: list[bool]) -> None:
    assert nondominated(points, ["max", "min"]).tolist() == front


def test_points_need_a_column_per_objective() -> None:
    with pytest.raises(ConfigError, match="must have 2 columns"):
        nondominated([[1.0, 2.0, 3.0]], ["max", "min"])


def test_hypervolume_of_a_staircase() -> None:
    points = [[0.5, 100.0], [0.75, 600.0]]
    assert hypervolume(points, [0.25, 1000.0], ["max", "min"]) == 0.25 * 900 + 0.25 * 400


@pytest.mark.parametrize(
    "outside", [[0.2, 10.0], [0.9, 1000.0], [0.9, 2000.0], [np.nan, 1.0], [0.9, -np.inf]]
)
def test_what_is_outside_the_box_contributes_nothing(outside: list[float]) -> None:
    box = ([0.25, 1000.0], ["max", "min"])
    assert hypervolume([outside], *box) == 0.0
    assert hypervolume([outside, [0.5, 100.0]], *box) == hypervolume([[0.5, 100.0]], *box)
    ideal = [1.0, 0.0]
    assert hypervolume([outside], *box, ideal) == 0.0


@given(cases(), st.integers(0, 1))
def test_hypervolume_is_that_of_the_front_and_grows_with_each_point(
    case: Case, scaled: int
) -> None:
    points, directions = case
    reference, ideal = -2.5 * better(directions), 2.5 * better(directions)
    ends = (reference.tolist(), directions, ideal.tolist() if scaled else None)
    running = running_hypervolume(points, *ends)
    assert (np.diff(running, prepend=0.0) >= -1e-9).all()
    whole = hypervolume(points, *ends)
    assert whole == pytest.approx(running[-1] if len(points) else 0.0)
    finite = points[np.isfinite(points).all(axis=1)]
    assert whole == pytest.approx(hypervolume(finite[nondominated(finite, directions)], *ends))


@given(cases(finite=True, most=4))
def test_hypervolume_is_the_share_of_a_grid_that_is_dominated(case: Case) -> None:
    """Counted on a grid, by definition; multiples of a quarter fall on its lines."""
    points, directions = case
    points = np.round(points * 4.0) / 4.0
    cells = np.arange(-2.0, 2.0, 0.25) + 0.125
    grid = np.stack(np.meshgrid(*[cells] * len(directions)), axis=-1).reshape(-1, len(directions))
    turned = points * better(directions)
    covered = np.array([(turned >= cell).all(axis=1).any() for cell in grid], dtype=bool)
    reference, ideal = -2.0 * better(directions), 2.0 * better(directions)
    share = hypervolume(points, reference.tolist(), directions, ideal.tolist())
    assert share == pytest.approx(covered.mean(), abs=1e-12)


@given(cases())
def test_relative_hypervolume_is_a_fraction(case: Case) -> None:
    points, directions = case
    reference, ideal = np.zeros(len(directions)), better(directions)
    share = hypervolume(points, reference.tolist(), directions, ideal.tolist())
    assert 0.0 <= share <= 1.0


def test_the_ideal_point_itself_has_all_of_it() -> None:
    assert hypervolume([[1.0, 0.0]], [0.1, 2e6], ["max", "min"], [1.0, 0.0]) == 1.0


def test_a_reference_beyond_the_ideal_is_refused() -> None:
    with pytest.raises(ConfigError, match="worse than the ideal"):
        hypervolume([[0.5, 1.0]], [1.0, 10.0], ["max", "min"], [1.0, 0.0])


def test_no_points_have_no_hypervolume() -> None:
    assert hypervolume([], [0.1, 10.0], ["max", "min"]) == 0.0
    assert running_hypervolume([], [0.1, 10.0], ["max", "min"]).tolist() == []
