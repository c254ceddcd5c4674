"""The latency table against whole models: does the sum over parts rank models as they are?

    python benchmarks/latency.py [--space digits] [--models 60] [--threads 1]

Prints the rank correlation of random points of a space; wants an idle machine.
"""

import argparse
from random import Random

import torch
from scipy.stats import spearmanr

from castling.model.build import build
from castling.model.castle import castle
from space.decode import decode
from space.latency import LatencyTable
from space.measure import measure_latency_ms
from space.presets import SPACES


def main() -> None:
    """Time parts, then models, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="digits")
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    space, table, rng = SPACES[arguments.space](), LatencyTable(), Random(0)
    models = [decode(space, space.sample(rng)).model for _ in range(arguments.models)]
    sums = [table(model) for model in models]
    whole = [
        measure_latency_ms(castle(build(model, seed=0)), (model.channels, *model.image_size))
        for model in models
    ]
    print(
        f"{arguments.space}: {len(models)} models of {min(whole):.2f} to {max(whole):.2f} ms, "
        f"{len(table)} parts; rank correlation {spearmanr(sums, whole)[0]:.3f}, "
        f"sums are {sum(sums) / sum(whole):.2f} of the whole"
    )


if __name__ == "__main__":
    main()
