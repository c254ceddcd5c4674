from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_study import made_up_run

import reports
from castling.errors import ConfigError
from reports.choice import compared, knee_place


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_run(tmp_path_factory.mktemp("runs") / "run")


def test_the_knee_has_the_most_gain_for_the_least_cost() -> None:
    goals = {"top1": "max", "macs": "min"}
    points = np.array([[0.5, 1e3], [0.9, 2e3], [0.92, 64e3], [0.93, 1e6]])
    assert knee_place(points, goals) == 1  # type: ignore[arg-type]
    assert knee_place(points[:1], goals) == 0  # type: ignore[arg-type]


def test_the_knee_is_on_the_front(run: Path) -> None:
    trials = reports.load(run)
    assert trials.pareto.knee()["trial"] in [*trials.pareto.front()["trial"]]
    with pytest.raises(ConfigError, match="fully trained"):
        trials.head(0).pareto.knee()


def test_progress_counts_what_every_trial_cost(run: Path) -> None:
    trials = reports.load(run)
    table = reports.progress_table(trials)
    assert table["hypervolume"].is_monotonic_increasing
    assert table["hypervolume"].iloc[-1] == pytest.approx(trials.pareto.hypervolume(relative=True))
    last = trials[trials["trial"] <= table["trial"].iloc[-1]]
    assert table["epochs"].iloc[-1] == last["epochs"].sum()
    assert table["trials"].iloc[-1] == len(last[last["finished_at"].notna()])


def test_reached_is_the_first_trial_at_a_hypervolume(run: Path) -> None:
    trials = reports.load(run)
    final = trials.pareto.hypervolume(relative=True)
    row = trials.pareto.reached(final * 0.9)
    table = reports.progress_table(trials)
    assert (table.loc[table["trials"] < row["trials"], "hypervolume"] < final * 0.9).all()
    with pytest.raises(ConfigError, match="is the most"):
        trials.pareto.reached(min(1.0, final * 1.01))
    with pytest.raises(ConfigError, match="at most 1"):
        trials.pareto.reached(80)


def test_the_better_model_within_a_budget_wins() -> None:
    fronts = {
        "a": pd.DataFrame({"macs": [10, 30], "top1": [0.5, 0.9]}),
        "b": pd.DataFrame({"macs": [20, 40], "top1": [0.6, 0.9]}),
    }
    table = compared(fronts, {"top1": "max", "macs": "min"})
    assert table["winner"].tolist() == ["a", "b", "a", "equal"]
    assert table["macs"].tolist() == [10, 20, 30, 40]


def test_runs_of_other_objectives_are_not_compared(run: Path) -> None:
    trials = reports.load(run)
    table = trials.pareto.compare(trials)
    assert {*table["winner"]} == {"equal"}
    assert [*table.attrs["hypervolume"]] == ["this", "other"]
    other = trials.copy()
    other.attrs = {**trials.attrs, "objectives": [{"metric": "params", "direction": "min"}]}
    with pytest.raises(ConfigError, match="must be those of the other run"):
        trials.pareto.compare(other)
