from dataclasses import replace

import numpy as np
import pytest

from reports.pareto import Points
from search.samplers.pareto.acquisition import Encoded, Goal, History, acquisition


GOAL = Goal(groups=((0,), (1,)), learnt=np.array([True, False]), reference=np.array([0.0, 1.0]))


def history(features: Points, error: list[float], doubt: list[float] | None = None) -> History:
    values = np.column_stack([error, np.full(len(error), 0.5)])
    trials = Encoded(features=features, values=values)
    doubts = np.column_stack([doubt or [0.0] * len(error), np.zeros(len(error))])
    return History(trials=trials, doubt=doubts)


def line(*places: float) -> Points:
    return np.column_stack([places, np.zeros(len(places))])


def candidates(*places: float) -> Encoded:
    values = np.tile([np.nan, 0.5], (len(places), 1))
    return Encoded(features=line(*places), values=values)


def test_before_results_the_farthest_is_best() -> None:
    score = acquisition(GOAL, history(line(0.0, 1.0), [np.nan, np.nan]))
    assert np.argmax(score(candidates(0.5, 1.1, 3.0))) == 2


def test_with_nothing_tried_all_candidates_are_alike() -> None:
    none = history(np.empty((0, 2)), [])
    assert acquisition(GOAL, none)(candidates(0.0, 1.0)) == pytest.approx([0.0, 0.0])


def test_where_results_improve_more_is_expected() -> None:
    places = np.linspace(-2.0, 2.0, 9)
    score = acquisition(GOAL, history(line(*places), [*(-0.5 - 0.1 * places)]))
    low, high = score(candidates(-1.8, 2.2))
    assert high > low


def test_a_cheaper_candidate_of_the_same_features_gains_more() -> None:
    score = acquisition(GOAL, history(line(-1.0, 0.0, 1.0), [-0.4, -0.5, -0.6]))
    two = candidates(0.8, 0.8)
    two.values[1, 1] = 0.2
    dear, cheap = score(two)
    assert cheap > dear


def test_beside_a_running_trial_less_is_expected() -> None:
    places, error = [-2.0, -1.0, 0.0, 1.0], [-0.3, -0.4, -0.5, -0.6]
    alone = acquisition(GOAL, history(line(*places), error))
    busy = acquisition(GOAL, history(line(*places, 1.6), [*error, np.nan]))
    assert busy(candidates(1.6))[0] < alone(candidates(1.6))[0]


def test_trials_stopped_early_teach_but_are_not_on_the_front() -> None:
    places, error = [-2.0, -1.0, 0.0, 1.0], [-0.3, -0.4, -0.5, -0.6]
    whole = acquisition(GOAL, history(line(*places), error))
    stopped = acquisition(GOAL, history(line(*places), error, [0.0, 0.0, 0.0, 0.05]))
    again = candidates(1.0)  # at full length the stopped trial's own place still promises a gain
    assert stopped(again)[0] > whole(again)[0]
    better, worse = -0.9, -0.3
    gains = [
        acquisition(GOAL, history(line(*places), [*error[:3], last], [0.0, 0.0, 0.0, 0.05]))(
            candidates(1.2)
        )[0]
        for last in (better, worse)
    ]
    assert gains[0] > gains[1]


def test_an_objective_without_a_reference_takes_it_from_the_trials() -> None:
    goal = Goal(groups=GOAL.groups, learnt=GOAL.learnt, reference=np.array([np.nan, np.nan]))
    score = acquisition(goal, history(line(-1.0, 0.0, 1.0), [-0.4, -0.5, -0.6]))
    gains = score(candidates(-1.5, 1.5))
    assert np.isfinite(gains).all()
    assert (gains > 0.0).any()


def test_known_objectives_need_no_results() -> None:
    goal = Goal(
        groups=GOAL.groups, learnt=np.array([False, False]), reference=np.array([1.0, 1.0])
    )
    values = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.9]])
    none = History(
        trials=Encoded(features=np.empty((0, 2)), values=np.empty((0, 2))), doubt=np.empty((0, 2))
    )
    gains = acquisition(goal, none)(Encoded(features=line(0.0, 1.0, 2.0), values=values))
    assert gains == pytest.approx([0.16, 0.25, 0.01])


def test_what_is_likely_over_a_learnt_bound_gains_less_and_beats_nothing() -> None:
    places = [-2.0, -1.5, -1.0, 0.0, 1.0, 2.0]
    free = history(line(*places), [-0.3, -0.35, -0.4, -0.5, -0.6, -0.7])
    over = np.array([[-0.4], [-0.3], [-0.2], [-0.1], [0.3], [0.5]])
    bounded = replace(free, excess=over)
    within, beyond = acquisition(GOAL, bounded)(candidates(0.4, 2.2))
    assert acquisition(GOAL, free)(candidates(0.4))[0] < within
    assert beyond < within
    assert acquisition(GOAL, free)(candidates(2.2))[0] > beyond


def test_after_cheap_trials_the_dear_come_first_by_what_they_add_without_cost() -> None:
    places = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    cheap = history(line(*places), [*(-0.5 - 0.1 * places)])
    cheap.trials.values[:, 1] = 0.1
    offered = candidates(3.0, 1.0, 2.5, 1.5)
    offered.values[:, 1] = [0.1, 0.6, 0.99, 0.8]
    assert [*np.argsort(-acquisition(GOAL, cheap)(offered))] == [2, 3, 1, 0]
    cheap.trials.values[3, 1] = 0.9  # one of the last was dear
    assert np.argmax(acquisition(GOAL, cheap)(offered)) == 0


@pytest.mark.parametrize("learnt", [[True, True], [False, False]])
def test_without_costs_or_without_anything_to_learn_nothing_is_dear(learnt: list[bool]) -> None:
    goal = Goal(groups=GOAL.groups, learnt=np.array(learnt), reference=GOAL.reference)
    places = [-2.0, -1.0, 0.0, 1.0, 2.0]
    score = acquisition(goal, history(line(*places), [-0.1] * 5))
    offered = candidates(0.5, 3.0)
    offered.values[:] = [[-0.5, 0.2], [-0.3, 0.8]]
    gains = score(offered)
    assert (gains >= 0.0).all()
    assert gains.any()
