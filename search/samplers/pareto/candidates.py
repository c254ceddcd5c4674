"""Generates candidates: a small space as a whole, else children of the front and random points."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Protocol, TypeVar

import numpy as np

from reports.pareto import nondominated
from search.samplers.pareto.acquisition import Encoded, Goal, History, Score, acquisition


P = TypeVar("P")

FIRST_DRAWS = 16
"""Random points of which the one farthest from all trials is proposed while there are no
results."""
GENERATIONS, GENERATION_SIZE, NUM_PARENTS = 3, 80, 12
"""Number of generations, candidates per generation, and parents per generation."""
FRESH, CROSSED = 0.25, 0.3
"""The fraction of the first generation that is random, and the fraction of children with two
parents."""


class Problem(Protocol[P]):
    """A search problem: points within the budget, as features and exact costs."""

    @property
    def goal(self) -> Goal:
        """The objectives."""

    @property
    def everything(self) -> Sequence[P] | None:
        """All points within the budget if there are few, else None."""

    def encode(self, points: Sequence[P]) -> Encoded:
        """Return the features and exact costs of points."""

    def key(self, point: P) -> Hashable:
        """Return a key of a point, fast to compute; equal trainings may have different keys."""

    def identity(self, point: P) -> Hashable:
        """Return a value that is equal for equal trainings, and only for these."""

    def sample(self, rng: Random) -> P:
        """Draw a point within the budget."""

    def mutate(self, point: P, rng: Random) -> P:
        """Return a mutation of a point, within the budget."""

    def cross(self, one: P, other: P, rng: Random) -> P:
        """Return a crossover of two points, within the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Generic[P]):
    """A trial as the proposer sees it."""

    point: P
    values: tuple[float, ...]
    """Per objective, to minimise; NaN while running."""
    identity: Hashable
    """Equal for equal trainings."""
    doubt: tuple[float, ...] = ()
    """Per objective, the standard deviation of a forecast value; empty if all are measured."""
    excess: tuple[float, ...] = ()
    """How far the trial exceeds each learnt bound, as in `History`."""
    has_failed: bool = False
    """Whether training failed: such a trial is not repeated, and nothing is learnt from it."""


def propose(problem: Problem[P], trials: Sequence[Trial[P]], rng: Random) -> P | None:
    """Return the candidate of the best score that no trial has tried.

    None if there is no further candidate.
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
    """Return the best of several generations: children of the front, then of the best."""
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
    """Return the points with new keys, each once, and add their keys to `seen`."""
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
