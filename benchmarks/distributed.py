"""Processes that train together against one alone: the largest difference of a weight.

    python benchmarks/distributed.py [--processes 2] [--steps 8]

Batches of 64 digits, shared by the processes (gloo), against the same batches in one process,
without drop path; the masks empty halfway. AdamW divides a gradient by its own size, so that
one of nothing but rounding errors moves a weight too, unless `eps` exceeds it: hence three
optimisers.
"""

import argparse
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
ASKED = 1e-6
BATCH = 64
OPTIMISERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "adamw, eps 1e-6": {"eps": 1e-6},
    "adamw, eps 1e-8": {},
}
"""Fields of `train` for each."""


def main() -> None:
    """Train each way and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]
    import ranks
    import torch

    from castling.config import MaskSchedule
    from space.presets import SPACES

    torch.set_num_threads(1)
    base = SPACES["digits"]().base
    mask = MaskSchedule(end=0.5)
    blocks = tuple(block.replace(mask=mask, drop_path=0.0) for block in base.model.blocks)
    base = base.replace(
        model=base.model.replace(blocks=blocks),
        data=base.data.replace(num_train=given.steps * BATCH, num_validation=100),
    )
    runs = {
        name: base.replace(train=base.train.replace(epochs=1, batch_size=BATCH, **fields))
        for name, fields in OPTIMISERS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        found = ranks.together(runs, given.steps, Path(folder), given.processes)
    print(f"{given.processes} processes, {given.steps} steps of {BATCH} images, against one:")
    for name, run in runs.items():
        weights, _ = ranks.alone(run, given.steps)
        differences = {
            key: (other[key] - weight).abs().max().item()
            for key, weight in weights.items()
            for other, _ in found[name]
        }
        largest = max(weight.abs().max().item() for weight in weights.values())
        worst = max(differences, key=differences.__getitem__)
        relative = differences[worst] / largest
        verdict = "" if relative <= ASKED else " no"
        print(
            f"{name:16} largest difference {differences[worst]:.1e} ({worst}), of the largest "
            f"weight {relative:.1e} (asked {ASKED:g}){verdict}"
        )


if __name__ == "__main__":
    main()
