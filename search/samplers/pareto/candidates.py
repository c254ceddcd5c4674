"""Where candidates come from: all there are, or children of the front and fresh draws."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

import numpy as np

from reports.pareto import nondominated
from search.samplers.pareto.acquisition import Encoded, Goal, History, Score, acquisition


P = TypeVar("P")

FIRST_DRAWS = 16
"""Draws among which the one farthest from all trials is taken before there are results."""
GENERATIONS, GENERATION_SIZE, NUM_PARENTS = 3, 80, 12
"""How often candidates are bred, how many at a time, and from how many of the best."""
FRESH, CROSSED = 0.25, 0.3
"""The part of the first generation that has no parents, and that of the rest that has two."""


class Problem(Protocol[P]):
    """What is searched: points within the budget, as features and exact costs."""

    @property
    def goal(self) -> Goal:
        """What is traded off."""

    @property
    def everything(self) -> Sequence[P] | None:
        """All points within the budget where these are few, else None."""

    def encode(self, points: Sequence[P]) -> Encoded:
        """Return the features and known objectives of points."""

    def key(self, point: P) -> Hashable:
        """Return what tells points apart, quickly; equal trainings may differ in it."""

    def identity(self, point: P) -> Hashable:
        """Return what equal trainings, and only they, have in common."""

    def sample(self, rng: Random) -> P:
        """Draw a point within the budget."""

    def mutate(self, point: P, rng: Random) -> P:
        """Return a point within the budget, a little different."""

    def cross(self, one: P, other: P, rng: Random) -> P:
        """Return a point within the budget that has its values from two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Generic[P]):
    """A trial as the proposer sees it."""

    point: P
    values: tuple[float, ...]
    """Per objective, smaller better; NaN while running."""
    identity: Hashable
    """What equal trainings have in common."""
    doubt: tuple[float, ...] = ()
    """Per objective, the standard deviation of an expected value; empty: all are measured."""
    excess: tuple[float, ...] = ()
    """How far it is over each bound that must be learnt, as in `History`."""
    has_failed: bool = False
    """Whether it broke: it teaches nothing but not to be repeated."""


def propose(problem: Problem[P], trials: Sequence[Trial[P]], rng: Random) -> P | None:
    """Return the candidate of the best score that no trial has tried.

    None says that no further candidate was found.
    """
    telling = [trial for trial in trials if not trial.has_failed]
    history = _history(problem, telling)
    score = acquisition(problem.goal, history)
    seen = {problem.key(trial.point) for trial in trials}
    is_early = not history.is_informative(problem.goal)
    if problem.everything is not None:
        left = _unseen(problem, problem.everything, seen)
        best = _best(
            problem, score, rng.sample(left, min(FIRST_DRAWS, len(left))) if is_early else left
        )
    elif is_early:
        drawn = (problem.sample(rng) for _ in range(FIRST_DRAWS))
        best = _best(problem, score, _unseen(problem, drawn, seen))
    else:
        best = _bred(problem, score, _front(history, telling), seen, rng)
    tried = {trial.identity for trial in trials}
    return next((point for point in best if problem.identity(point) not in tried), None)


def _history(problem: Problem[P], trials: Sequence[Trial[P]]) -> History:
    known = problem.encode([trial.point for trial in trials])
    results = np.array([trial.values for trial in trials]).reshape(known.values.shape)
    values = np.where(np.isnan(results), known.values, results)
    bounds = max((len(trial.excess) for trial in trials), default=0)
    return History(
        excess=np.array([trial.excess for trial in trials]).reshape(len(trials), bounds),
        trials=Encoded(features=known.features, values=values),
        doubt=np.array([trial.doubt or [0.0] * known.values.shape[1] for trial in trials]).reshape(
            known.values.shape
        ),
    )


def _front(history: History, trials: Sequence[Trial[P]]) -> list[P]:
    """Return the points of the trials that no other dominates, however long they trained."""
    values = history.trials.values
    kept = nondominated(values, ["min"] * values.shape[1])
    return [trial.point for trial, keep in zip(trials, kept, strict=True) if keep]


def _bred(
    problem: Problem[P], score: Score, front: Sequence[P], seen: set[Hashable], rng: Random
) -> list[P]:
    """Return the best of some generations: first the front's children, then the best ones'."""
    parents, best = [*front], list[P]()
    known = set(seen)
    for generation in range(GENERATIONS):
        fresh = FRESH if generation == 0 else 0.0
        children = _unseen(problem, _children(problem, parents, fresh, rng), known)
        best = _best(problem, score, [*best, *children])[:NUM_PARENTS]
        parents = best or parents
    return best


def _children(problem: Problem[P], parents: Sequence[P], fresh: float, rng: Random) -> Iterator[P]:
    for _ in range(GENERATION_SIZE):
        if not parents or rng.random() < fresh:
            yield problem.sample(rng)
        elif rng.random() < CROSSED:
            child = problem.cross(rng.choice(parents), rng.choice(parents), rng)
            yield problem.mutate(child, rng) if rng.random() < 0.5 else child
        else:
            yield problem.mutate(rng.choice(parents), rng)


def _unseen(problem: Problem[P], points: Iterable[P], seen: set[Hashable]) -> list[P]:
    """Return the points whose keys are new, each once, and take note of them."""
    unseen = []
    for point in points:
        key = problem.key(point)
        if key not in seen:
            seen.add(key)
            unseen.append(point)
    return unseen


def _best(problem: Problem[P], score: Score, points: Sequence[P]) -> list[P]:
    """Return the points by falling score."""
    if not points:
        return []
    order = np.argsort(-score(problem.encode(points)), kind="stable")
    return [points[index] for index in order]
