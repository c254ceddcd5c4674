"""How well the sampler's surrogate predicts each trained model from the others."""

from pathlib import Path

import numpy as np
import pandas as pd

import reports
from castling.errors import CastlingError
from castling.metrics import metric_named
from reports.frame import is_dimension
from reports.manifest import Manifest
from search.samplers.pareto.encoding import Encoding
from search.samplers.pareto.surrogate import Surrogate


FEWEST = 8
"""Fully trained models below which a calibration says nothing."""
MOST = 400
"""Models that enter, the last ones of more: a prediction inverts a matrix of their number."""


def calibration(run: str | Path) -> pd.DataFrame | None:
    """Return the surrogate's prediction of each trained model, without that model.

    The surrogate is that of the sampler `pareto`, of the first objective that training measures;
    its kernel is fitted to all models, and each prediction is conditioned on all others.

    Returns:
        A row per fully trained model: trial, measured, expected, std (with the noise). None where
        nothing is learnt, too few models are trained, or this version cannot read the space.

    Raises:
        RunFolderError: when the folder is no run or has no study.
    """
    folder = Path(run)
    manifest = Manifest.read(folder)
    learnt = [goal for goal in manifest.objectives if not metric_named(goal.metric).is_cost]
    trained = reports.load(folder).pareto.trained().tail(MOST)
    try:
        space = manifest.read_space(folder)
    except CastlingError:
        return None
    if space is None or not learnt or len(trained) < FEWEST:
        return None
    goal = learnt[0]
    costs = [one.metric for one in manifest.objectives if metric_named(one.metric).is_cost]
    encoding = Encoding(space, costs)
    rows = trained.astype(object).to_dict("records")
    names = [str(name) for name in trained if is_dimension(str(name))]
    try:
        features = np.stack(
            [
                encoding(
                    {name: row[name] for name in names if not pd.isna(row[name])},
                    {cost: float(row[cost]) for cost in costs},
                )
                for row in rows
            ]
        )
    except (KeyError, TypeError, CastlingError):  # points of another version
        return None
    measured = trained[goal.metric].to_numpy(dtype=np.float64)
    surrogate = Surrogate(features, goal.sign * measured, encoding.groups)
    mean, std = surrogate.leave_one_out()
    return pd.DataFrame(
        {
            "trial": trained["trial"].to_numpy(),
            "measured": measured,
            "expected": goal.sign * mean,
            "std": std,
        }
    )
