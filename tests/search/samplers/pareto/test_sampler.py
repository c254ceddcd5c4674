from math import isnan
from pathlib import Path

import pytest
from search_bridge import bridge

from reports.records import RUNGS_ATTRIBUTE, TrialState
from search.config import SearchConfig
from search.samplers.pareto.sampler import ParetoSampler
from search.study.storage import open_storage, open_study
from search.study.study import SearchStudy
from search.study.trial import Outcome


CONFIG = SearchConfig.from_data({"budget": {"max_macs": "400k"}, "trials": 20})


def ends(study: SearchStudy, then: float | None, final: float, state: str = "trained") -> int:
    """Give a trial an accuracy at the first rung and one in the end; return its number."""
    proposal = study.propose()
    assert proposal is not None
    if then is not None:
        study.note(proposal.trial, {0: {"top1": then}})
    outcome = Outcome(state=TrialState(state), metrics={"top1": final, "loss": 1.0}, epochs=1)
    study.finish(proposal.trial, outcome)
    return proposal.trial


def taught(folder: Path) -> list[tuple[float, float]]:
    """Return every trial's accuracy, and its standard deviation, as the sampler takes them."""
    sampler = ParetoSampler(CONFIG.context(CONFIG.build_space()), seed=0)
    study = open_study(open_storage(folder, None), CONFIG.objectives)
    told = [found for trial in study.get_trials() if (found := sampler._told(trial)) is not None]
    full = [one for one in told if one.record.state == TrialState.TRAINED]
    trials = [sampler._trial(one, full) for one in told]
    return [(-trial.values[0], trial.doubt[0]) for trial in trials]


def test_a_stopped_trial_teaches_what_it_would_have_come_to(tmp_path: Path) -> None:
    study = bridge(tmp_path, CONFIG).study
    for then, final in ((0.5, 0.9), (0.6, 0.93), (0.4, 0.87)):
        ends(study, then, final)
    ends(study, 0.3, 0.3, "stopped")
    *full, (expected, doubt) = taught(tmp_path)
    assert full == [(0.9, 0.0), (0.93, 0.0), (0.87, 0.0)]
    assert 0.7 < expected < 0.87
    assert 0.0 < doubt < 0.2


def test_where_nobody_passed_its_rung_a_stopped_trial_teaches_nothing(tmp_path: Path) -> None:
    study = bridge(tmp_path, CONFIG).study
    ends(study, None, 0.9)
    ends(study, 0.3, 0.3, "stopped")
    ends(study, None, 0.3, "stopped")
    assert taught(tmp_path)[0] == (0.9, 0.0)
    assert [isnan(value) for value, _ in taught(tmp_path)[1:]] == [True, True]


@pytest.mark.parametrize(
    "nonsense",
    [{"0": {"top1": "x"}}, {"a": {}}, [1], "x", {"0": 3}, {"0": {"top1": float("nan")}}],
)
def test_nonsense_in_a_study_of_others_is_left_out(nonsense: object, tmp_path: Path) -> None:
    study = bridge(tmp_path, CONFIG).study
    ends(study, 0.5, 0.9)
    proposal = study.propose()
    assert proposal is not None
    study._store._storage.set_trial_user_attr(proposal.trial, RUNGS_ATTRIBUTE, nonsense)
    study.finish(
        proposal.trial, Outcome(state=TrialState.STOPPED, metrics={"top1": 0.3}, epochs=1)
    )
    [_, (value, _)] = taught(tmp_path)
    assert isnan(value)


@pytest.mark.parametrize("state", ["trained", "stopped", "failed"])
def test_a_proposal_follows_whatever_came_before(state: str, tmp_path: Path) -> None:
    study = bridge(tmp_path, CONFIG).study
    for then in (0.5, 0.6, 0.4, 0.3):
        ends(study, then, then, state)
    assert study.propose() is not None
