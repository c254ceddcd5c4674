"""Seeds of trainings: each trial of a search may have its own, and each of its repeats has."""

import numpy as np

from castling.config import RunConfig
from castling.config.train import TRIAL


def trial_seeds(seed: int | str, search_seed: int, trial: int, repeats: int) -> tuple[int, ...]:
    """Return the seed of each repeat of a trial.

    With `train.seed: trial` all depend on the search's seed and the trial's number. Else the first
    is the config's own, and the others follow from it, so that all trials share the same seeds.

    Args:
        seed: `train.seed` of the trial's config: a number, or `trial`.
        search_seed: that of the search.
        trial: its number.
        repeats: how many.
    """
    if seed == TRIAL:
        return tuple(_derived(search_seed, trial, repeat) for repeat in range(repeats))
    first = int(seed)
    return (first, *(_derived(first, 0, repeat) for repeat in range(1, repeats)))


def seeded(run: RunConfig, seed: int) -> RunConfig:
    """Return a run with a seed."""
    return run.replace(train=run.train.replace(seed=seed))


def _derived(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) % 2**31
