"""Where candidates come from: all there are, or children of the front and fresh draws."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

import numpy as np

from reports.pareto import nondominated
from search.pareto.acquisition import Encoded, Goal, History, Score, acquisition


P = TypeVar("P")

FIRST_DRAWS = 16
"""Draws among which the one farthest from all trials is taken before there are results."""
GENERATIONS, GENERATION_SIZE, NUM_PARENTS = 4, 96, 12
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
        """Return what equal trainings have in common."""

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
    fidelity: float = 1.0
    """The fraction of its training that it had."""


def propose(problem: Problem[P], trials: Sequence[Trial[P]], rng: Random) -> P | None:
    """Return the candidate of the best score that no trial has tried.

    None says that no further candidate was found.
    """
    history = _history(problem, trials)
    score = acquisition(problem.goal, history)
    seen = {problem.key(trial.point) for trial in trials}
    is_early = not history.is_informative(problem.goal)
    if problem.everything is not None:
        left = [point for point in problem.everything if problem.key(point) not in seen]
        drawn = rng.sample(left, min(FIRST_DRAWS, len(left))) if is_early else left
        return _best(problem, score, drawn, 1)[0] if drawn else None
    if is_early:
        drawn = _unseen(problem, (problem.sample(rng) for _ in range(FIRST_DRAWS)), seen)
        return _best(problem, score, drawn, 1)[0] if drawn else None
    return _bred(problem, score, _front(history, trials), seen, rng)


def _history(problem: Problem[P], trials: Sequence[Trial[P]]) -> History:
    known = problem.encode([trial.point for trial in trials])
    results = np.array([trial.values for trial in trials]).reshape(known.values.shape)
    values = np.where(np.isnan(results), known.values, results)
    return History(
        trials=Encoded(features=known.features, values=values),
        fidelity=np.array([trial.fidelity for trial in trials]),
    )


def _front(history: History, trials: Sequence[Trial[P]]) -> list[P]:
    """Return the points of the trials that no other dominates, however long they trained."""
    values = history.trials.values
    kept = nondominated(values, ["min"] * values.shape[1])
    return [trial.point for trial, keep in zip(trials, kept, strict=True) if keep]


def _bred(
    problem: Problem[P], score: Score, front: Sequence[P], seen: set[Hashable], rng: Random
) -> P | None:
    """Return the best of some generations: first the front's children, then the best ones'."""
    parents, best = [*front], list[P]()
    known = set(seen)
    for generation in range(GENERATIONS):
        fresh = FRESH if generation == 0 else 0.0
        children = _unseen(problem, _children(problem, parents, fresh, rng), known)
        best = _best(problem, score, [*best, *children], NUM_PARENTS)
        parents = best or parents
    return best[0] if best else None


def _children(
    problem: Problem[P], parents: Sequence[P], fresh: float, rng: Random
) -> Iterator[P]:
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


def _best(problem: Problem[P], score: Score, points: Sequence[P], number: int) -> list[P]:
    """Return the points of the highest scores, the best first."""
    if not points:
        return []
    order = np.argsort(-score(problem.encode(points)), kind="stable")[:number]
    return [points[index] for index in order]
