from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

import reports
from castling.errors import ConfigError
from reports.frame import tabulate
from reports.front import relative_hypervolume
from reports.pareto import hypervolume
from reports.records import Record, TrialState
from space.budget import Budget


MakeRun = Callable[..., Path]
MakeRecord = Callable[..., Record]
REFERENCE = {"top1": 0.1, "macs": 1_000_000.0}


@pytest.fixture
def trials(run: Path) -> pd.DataFrame:
    return reports.load(run, refused=True)


def test_only_full_trainings_are_on_the_front(trials: pd.DataFrame) -> None:
    front = trials.pareto.front()
    assert list(front["trial"]) == [0, 1]
    assert list(front.index) == [0, 1]
    assert list(front.columns) == list(trials.columns)
    assert front.attrs == trials.attrs


def test_only_full_trainings_can_be_dominated(trials: pd.DataFrame) -> None:
    mask = trials.pareto.dominated()
    assert mask.dtype == bool
    assert list(trials.index[mask]) == [2]


def test_trained_are_members_dominated_and_equals(trials: pd.DataFrame) -> None:
    assert list(trials.pareto.trained()["trial"]) == [0, 1, 2]


def test_hypervolume_is_that_of_the_front(trials: pd.DataFrame) -> None:
    expected = 0.5 * (1_000_000 - 100_000) + 0.2 * (1_000_000 - 200_000)
    assert trials.pareto.hypervolume() == pytest.approx(expected)
    assert trials.pareto.hypervolume(relative=True) == pytest.approx(expected / 900_000)


def test_progress_ends_at_the_hypervolume(trials: pd.DataFrame) -> None:
    progress = trials.pareto.progress(relative=True)
    assert list(progress.index) == [0, 1, 2]
    assert progress.iloc[0] == pytest.approx(0.5)
    assert progress.iloc[-1] == pytest.approx(trials.pareto.hypervolume(relative=True))


def test_progress_is_in_the_order_of_finishing(record: MakeRecord) -> None:
    late = record(0, top1=0.5, finished_at="2026-11-04T00:00:00+00:00")
    early = record(1, top1=0.4, finished_at="2026-11-03T00:00:00+00:00")
    progress = tabulate([late, early]).pareto.progress(reference=REFERENCE)
    assert list(progress.index) == [1, 0]
    assert progress.is_monotonic_increasing


def test_the_front_is_sorted_by_the_first_minimised_objective(record: MakeRecord) -> None:
    rows = [
        record(0, macs=30, top1=0.9),
        record(1, macs=10, top1=0.7),
        record(2, macs=20, top1=0.8),
    ]
    frame = tabulate(rows)
    assert list(frame.pareto.front()["macs"]) == [10, 20, 30]
    assert list(frame.pareto.front(objectives={"top1": "max"})["trial"]) == [0]


def test_of_equal_trials_the_first_is_kept(record: MakeRecord) -> None:
    frame = tabulate([record(trial, macs=10, top1=0.5) for trial in range(3)])
    assert list(frame.pareto.front()["trial"]) == [0]
    assert not frame.pareto.dominated().any()


def test_a_trial_over_budget_does_not_count(trials: pd.DataFrame) -> None:
    assert list(trials.pareto.front(budget=Budget(max_macs=150_000))["trial"]) == [0]
    assert list(trials.pareto.front(budget=Budget(max_params=1_500))["trial"]) == [0]
    trials.attrs["budget"] = {"max_macs": 150_000}
    assert list(trials.pareto.front()["trial"]) == [0]
    assert list(trials.pareto.front(budget=Budget())["trial"]) == [0, 1]


def test_objectives_of_the_run_are_the_default(trials: pd.DataFrame) -> None:
    trials.attrs["objectives"] = [{"metric": "macs", "direction": "min"}]
    assert list(trials.pareto.front()["trial"]) == [0]
    assert len(trials.pareto.front(objectives={"top1": "max", "params": "min"})) == 2


def test_three_objectives(record: MakeRecord) -> None:
    rows = [
        record(0, macs=10, params=30, top1=0.5),
        record(1, macs=10, params=20, top1=0.5),
        record(2, macs=9, top1=0.5),
    ]
    goals = {"top1": "max", "macs": "min", "params": "min"}
    assert list(tabulate(rows).pareto.front(objectives=goals)["trial"]) == [2, 1]


def test_an_unmeasured_objective_keeps_a_trial_off_the_front(record: MakeRecord) -> None:
    frame = tabulate([record(0, loss=np.nan), record(1, loss=np.inf), record(2, loss=1.0)])
    goals = {"top1": "max", "loss": "min"}
    assert list(frame.pareto.front(objectives=goals)["trial"]) == [2]
    assert not frame.pareto.dominated(objectives=goals)[:2].any()


def test_lost_attrs_leave_defaults_and_ask_for_the_reference(trials: pd.DataFrame) -> None:
    other = trials.copy()
    other.attrs["reference"] = {"top1": 0.2, "macs": 5e5}
    both = pd.concat([trials, other])
    assert both.attrs == {}
    assert list(both.pareto.front()["trial"]) == [0, 1]
    assert len(both.pareto.dominated()) == len(both)
    with pytest.raises(ConfigError, match=r'pass reference=\{"top1": \.\.\., "macs": \.\.\.\}'):
        both.pareto.hypervolume()
    assert both.pareto.hypervolume(reference=REFERENCE) == trials.pareto.hypervolume()


def test_a_relative_hypervolume_needs_an_ideal(trials: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="images_per_s has none"):
        trials.pareto.hypervolume(
            relative=True, objectives={"images_per_s": "max"}, reference={"images_per_s": 0.0}
        )


@pytest.mark.parametrize(
    ("limits", "trial"),
    [
        ({}, 1),
        ({"max_macs": "150k"}, 0),
        ({"max_macs": 200_000}, 1),
        ({"max_macs": np.int64(199_999)}, 0),
        ({"max_params": "1k"}, 0),
        ({"max_macs": "1M", "max_params": 1_999}, 0),
    ],
)
def test_the_best_within_limits(
    trials: pd.DataFrame, limits: dict[str, str | int], trial: int
) -> None:
    assert trials.pareto.best(**limits)["trial"] == trial


def test_of_equally_accurate_trials_the_cheaper_is_best(record: MakeRecord) -> None:
    rows = [
        record(0, macs=30, top1=0.9),
        record(1, macs=20, top1=0.9, params=99_999),
        record(2, macs=20, top1=0.9),
    ]
    assert tabulate(rows).pareto.best()["trial"] == 2


@pytest.mark.parametrize("limits", [{"max_macs": "99k"}, {"max_params": 999}])
def test_limits_that_nothing_meets_name_the_cheapest(
    trials: pd.DataFrame, limits: dict[str, str | int]
) -> None:
    cheapest = "cheapest is trial 0 with 100,000 MACs and 1,000 parameters"
    with pytest.raises(ConfigError, match=cheapest) as caught:
        trials.pareto.best(**limits)
    assert caught.value.field == next(iter(limits))


@pytest.mark.parametrize("limit", ["much", -1, 0, True, "1.23456k"])
def test_a_limit_must_be_a_size(trials: pd.DataFrame, limit: str | int) -> None:
    with pytest.raises(ConfigError, match="max_macs: must be a positive count"):
        trials.pareto.best(max_macs=limit)


def test_without_a_trained_model_there_is_no_best(make_run: MakeRun, record: MakeRecord) -> None:
    trials = reports.load(make_run([record(0, "running")]))
    with pytest.raises(ConfigError, match="no model is fully trained"):
        trials.pareto.best(max_macs="1M")


def test_an_empty_run_has_an_empty_front(make_run: MakeRun) -> None:
    trials = reports.load(make_run([]))
    assert trials.pareto.front().empty
    assert trials.pareto.dominated().empty
    assert trials.pareto.progress().empty
    assert trials.pareto.hypervolume() == 0.0


@pytest.mark.parametrize("column", ["state", "epochs", "top1", "macs"])
def test_a_missing_column_is_named(trials: pd.DataFrame, column: str) -> None:
    with pytest.raises(ConfigError, match=f"must have a column '{column}'"):
        trials.drop(columns=column).pareto.front()


@pytest.mark.parametrize("goals", [{}, {"top1": "up"}, {"reason": "min"}, {"state": "max"}])
def test_objectives_are_checked(trials: pd.DataFrame, goals: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        trials.pareto.front(objectives=goals)


def test_repeated_index_labels_are_no_problem(trials: pd.DataFrame) -> None:
    twice = pd.concat([trials, trials])
    assert list(twice.pareto.front()["trial"]) == [0, 1]
    assert list(twice[twice.pareto.dominated().to_numpy()]["trial"]) == [2, 2]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(TrialState)),
            st.sampled_from([0.0, 0.5, 0.75, 1.0]),
            st.integers(1, 6),
            st.integers(8, 10),
        ),
        max_size=20,
    ),
    st.integers(1, 6),
)
def test_laws_of_the_front(
    record: MakeRecord, rows: list[tuple[TrialState, float, int, int]], max_macs: int
) -> None:
    frame = tabulate(
        [
            record(number, state, macs=macs, top1=top1, epochs=epochs)
            for number, (state, top1, macs, epochs) in enumerate(rows)
        ]
    )
    frame.attrs["budget"] = {"max_macs": max_macs}
    front, trained = frame.pareto.front(), frame.pareto.trained()
    assert not front.pareto.dominated().any()
    assert front["macs"].is_monotonic_increasing
    assert front["top1"].is_monotonic_increasing
    assert set(front["state"]) <= {"trained"}
    assert (front["fidelity"] == 1.0).all()
    assert (front["macs"] <= max_macs).all()
    for row in trained.itertuples():
        assert ((front["macs"] <= row.macs) & (front["top1"] >= row.top1)).any()
    expected = hypervolume(trained[["top1", "macs"]], [0.0, 7.0], ["max", "min"])
    corner = {"top1": 0.0, "macs": 7.0}
    assert front.pareto.hypervolume(reference=corner) == pytest.approx(expected)


METHODS: dict[str, Callable[[pd.DataFrame], object]] = {
    "front": lambda frame: frame.pareto.front(),
    "dominated": lambda frame: frame.pareto.dominated(),
    "trained": lambda frame: frame.pareto.trained(),
    "hypervolume": lambda frame: frame.pareto.hypervolume(reference=REFERENCE),
    "progress": lambda frame: frame.pareto.progress(reference=REFERENCE),
    "best": lambda frame: frame.pareto.best(max_macs="1M"),
    "nothing fits": lambda frame: frame.pareto.best(max_macs=1),
    "within": lambda frame: frame.pareto.within(max={"train_seconds": 9}, min={"top1": 0.5}),
}
NEEDED = ("trial", "state", "macs", "params", "top1", "epochs", "epochs_planned", "finished_at")
HANDLED: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "filtered": lambda frame: frame[frame["macs"] > 150_000],
    "nothing left": lambda frame: frame[frame["macs"] < 0],
    "sorted": lambda frame: frame.sort_values("top1"),
    "indexed by trial": lambda frame: frame.set_index("trial"),
    "indexed by two": lambda frame: frame.set_index(["state", "trial"]),
    "indexed, kept": lambda frame: frame.set_index("macs", drop=False),
    "repeated": lambda frame: pd.concat([frame, frame]),
    "of two runs": lambda frame: pd.concat([frame.assign(run="a"), frame.assign(run="b")]),
    "merged": lambda frame: frame.merge(frame[["trial", "top1"]], on="trial"),
    "side by side": lambda frame: pd.concat([frame, frame], axis=1),
    "with rows of others": lambda frame: pd.concat([frame, pd.DataFrame({"note": ["x", "y"]})]),
    "as objects": lambda frame: frame.astype(object),
    "of nullable types": lambda frame: frame.convert_dtypes(),
    "as texts": lambda frame: frame.astype(str),
    "pivoted": lambda frame: frame.pivot_table(index="trial", columns="state", values=["top1"]),
    "transposed": lambda frame: frame.T,
    "empty": lambda frame: frame.iloc[:0, :0],
    "without attrs": lambda frame: pd.DataFrame(dict(frame.items())),
    "attrs of another": lambda frame: with_attrs(frame, objectives="top1", budget=3, reference=0),
    "half its attrs": lambda frame: with_attrs(frame, objectives=[{"metric": "top1"}]),
    "no reference": lambda frame: with_attrs(frame, reference={"macs": "low"}),
    **{f"without {name}": lambda frame, name=name: frame.drop(columns=name) for name in NEEDED},
    **{
        f"{name} renamed": lambda frame, name=name: frame.rename(columns={name: f"{name}2"})
        for name in NEEDED
    },
}


def with_attrs(trials: pd.DataFrame, **attrs: object) -> pd.DataFrame:
    changed = trials.copy()
    changed.attrs = {**trials.attrs, **attrs}
    return changed


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", HANDLED)
def test_frames_that_users_have_handled_answer_or_say_one_sentence(
    how: str, trials: pd.DataFrame
) -> None:
    frame = HANDLED[how](trials)
    for method in METHODS.values():
        with suppress(ConfigError):
            method(frame)


def test_the_cheapest_is_named_from_the_index_too(trials: pd.DataFrame) -> None:
    cheapest = "cheapest is trial 0 with 100,000 MACs and 1,000 parameters, got '1 MACs'"
    for frame in (trials, trials.set_index("trial"), trials.set_index(["state", "trial"])):
        with pytest.raises(ConfigError, match=cheapest):
            frame.pareto.best(max_macs=1)
        assert frame.pareto.best(max_macs="150k").macs == 100_000


def test_handled_frames_have_the_front_of_the_run(trials: pd.DataFrame) -> None:
    for how in ("sorted", "indexed by trial", "indexed, kept", "as objects", "without attrs"):
        assert list(HANDLED[how](trials).pareto.front()["macs"]) == [100_000, 200_000], how


@pytest.mark.parametrize(
    ("limits", "trial"),
    [
        ({"max": {"macs": "150k"}}, 0),
        ({"max": {"loss": 1.5}}, 1),
        ({"min": {"top1": "75%"}}, 1),
        ({"min": {"top1": 0.55}, "max": {"params": 1_500}}, 0),
    ],
)
def test_every_metric_limits_the_best(
    trials: pd.DataFrame, limits: dict[str, dict[str, str | float]], trial: int
) -> None:
    assert trials.pareto.best(**limits)["trial"] == trial
    assert trial in list(trials.pareto.within(**limits).pareto.front()["trial"])


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        ({"max": {"beauty": 1}}, "max.beauty: must bound one of macs"),
        ({"max": {"learning_rate": 1}}, "must bound one of macs"),
        ({"max": {"top1": 0.5}}, "must bound a metric on its worse side: top1 is to be high"),
        ({"min": {"macs": 5}}, "must bound a metric on its worse side: macs is to be low"),
        ({"min": {"top1": 2}}, "must be between 0 and 1, got 2"),
        ({"min": {"top1": "much"}}, "must be a number such as 0.9 or 90%"),
        ({"max": {"macs": "1.23456k"}}, "must be a positive count"),
        ({"max_macs": 5, "max": {"macs": 5}}, "must not be bounded twice"),
        ({"max": {"loss": 0.1}}, "nearest is trial 0 with .* and loss 1.25 nats, got 'loss at mo"),
        ({"min": {"top1": 0.99}}, "nearest is trial 1 with .* and top1 80.00%"),
    ],
)
def test_limits_that_are_none_or_that_nothing_meets_are_one_sentence(
    trials: pd.DataFrame, limits: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ConfigError, match=rule):
        trials.pareto.best(**limits)


def test_a_limit_is_the_reference_of_a_metric_without_one(trials: pd.DataFrame) -> None:
    trials.attrs["objectives"] = [
        {"metric": "top1", "direction": "max"},
        {"metric": "loss", "direction": "min"},
    ]
    assert relative_hypervolume(trials) == (None, "loss has no reference; add --max loss=VALUE")
    volume = relative_hypervolume(trials.pareto.within(max={"loss": 2.5}))
    assert volume.value == pytest.approx((0.8 - 0.1) / 0.9 * 0.5)
    trials.attrs |= {"objectives": [{"metric": "images_per_s", "direction": "max"}]}
    trials.attrs |= {"reference": {"images_per_s": 0.0}}
    assert relative_hypervolume(trials).words == "no hypervolume: images_per_s has no best value"


def test_a_trial_over_a_bound_that_was_learnt_counts_for_nothing(trials: pd.DataFrame) -> None:
    trials.attrs["budget"] = {"min": {"top1": 0.75}}
    assert list(trials.pareto.trained()["trial"]) == [1]
    assert trials.pareto.best()["trial"] == 1
    trials.attrs["budget"] = {"max": {"train_seconds": 60}}  # nobody has measured them
    assert trials.pareto.front().empty
