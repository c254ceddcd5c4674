"""The latency table against whole models: does the sum over parts rank models as they are?

    python benchmarks/latency.py [--space digits] [--models 60]

Prints the rank correlation of random points of a space, and what the models' own times have when
they are taken twice: hardly any table can have more. One thread; wants an idle machine.
"""

import argparse
from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from scipy.stats import spearmanr

from castling.config import Architecture
from castling.model.build import build
from castling.model.castle import castle
from reports.pareto import Points
from space.decode import decode
from space.latency import LatencyTable
from space.measure import measure_latency_ms
from space.presets import SPACES


ROUNDS = 16
"""How often a model is timed."""


def main() -> None:
    """Time parts, then models, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="digits")
    parser.add_argument("--models", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space, table, rng = SPACES[arguments.space](), LatencyTable(), Random(0)
    models = [decode(space, space.sample(rng)).model for _ in range(arguments.models)]
    sums = [table(model) for model in models]
    whole = _rounds(models)
    halves = [np.quantile(half, 0.25, axis=0) for half in (whole[0::2], whole[1::2])]
    best = np.quantile(whole, 0.25, axis=0)
    print(
        f"{arguments.space}: {len(models)} models of {best.min():.2f} to {best.max():.2f} ms, "
        f"{len(table)} parts; rank correlation {spearmanr(sums, best)[0]:.3f} "
        f"(the models' with themselves {spearmanr(*halves)[0]:.3f}), "
        f"sums are {sum(sums) / best.sum():.2f} of the whole"
    )


def _rounds(models: Sequence[Architecture]) -> Points:
    """Return the milliseconds of whole models, (round, model), all of them in turns."""
    built = [castle(build(model, seed=0)) for model in models]
    shapes = [(model.channels, *model.image_size) for model in models]
    pairs = [*zip(built, shapes, strict=True)]
    return np.array([[measure_latency_ms(*pair, runs=3) for pair in pairs] for _ in range(ROUNDS)])


if __name__ == "__main__":
    main()
