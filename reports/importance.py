"""What decides the objectives: importance of dimensions, operators by layer, early ranks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.frame import is_dimension
from reports.pareto import Points


FEWEST_TRIALS = 8
"""Fully trained trials below which an importance would be noise."""
MOST_TRIALS = 1_000
"""Trials that a forest learns from: the last ones of more."""
MOST_SHUFFLED = 400
"""Trials whose predictions are compared after each shuffle."""
FEW = 3
"""Trials below which a mean says little."""


def live_dimensions(trials: pd.DataFrame) -> list[str]:
    """Return the dimensions of which trials have at least two values, in the order of columns."""
    names = [str(name) for name in trials if is_dimension(str(name))]
    return [name for name in names if len(trials[name].unique()) > 1]


def importance(trials: pd.DataFrame) -> pd.DataFrame:
    """Return how much each live dimension matters for each objective.

    A forest of extremely random trees learns each objective from the dimensions; the importance of
    a dimension is how much worse its prediction becomes when the dimension's values are shuffled
    (Breiman, Random Forests, 2001), as a fraction of the sum over all dimensions.

    Returns:
        A row per dimension that has at least two values among the fully trained trials, the most
        important first; a column per objective, each adding up to 1. No row where fewer than
        FEWEST_TRIALS trials are fully trained.
    """
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.inspection import permutation_importance

    goals = trials.pareto.objectives
    trained = trials.pareto.trained().tail(MOST_TRIALS)
    names = live_dimensions(trained)
    if len(trained) < FEWEST_TRIALS or not names:
        return pd.DataFrame(columns=[*goals], index=pd.Index([], name="dimension"), dtype=float)
    features = np.column_stack([encoded(trained[name]) for name in names])
    table = pd.DataFrame(index=pd.Index(names, name="dimension"))
    for goal in goals:
        values = trained[goal].to_numpy(dtype=np.float64)
        leaf = 1 if len(values) < 500 else 4
        forest = ExtraTreesRegressor(40, min_samples_leaf=leaf, max_features=0.6, random_state=0)
        forest.fit(features, values)
        sample = min(1.0, MOST_SHUFFLED / len(values))
        shuffled = permutation_importance(
            forest, features, values, n_repeats=3, random_state=0, max_samples=sample
        )
        positive = np.maximum(shuffled.importances_mean, 0.0)
        table[goal] = positive / positive.sum() if positive.sum() > 0 else positive
    return table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]


def encoded(values: "pd.Series[Any]") -> Points:
    """Return a dimension as numbers: choices by their rank in alphabetical order, absent as -1."""
    if str(values.dtype) in {"Int64", "Float64"}:
        return values.to_numpy(dtype=np.float64, na_value=-1.0)
    text = values.astype("string")
    order = {name: rank for rank, name in enumerate(sorted(text.dropna().unique()))}
    ranks = text.map(order).fillna(-1)
    return ranks.to_numpy(dtype=np.float64)


def excess(trials: pd.DataFrame) -> "pd.Series[float]":
    """Return by how much each fully trained trial is better than its cost predicts.

    The prediction is the best monotone function of the cost (isotonic regression) of these trials;
    the index is theirs. Quality is the first objective to maximise, cost the first to minimise.
    """
    from sklearn.isotonic import IsotonicRegression

    goals = trials.pareto.objectives
    quality = next((name for name, way in goals.items() if way == "max"), "top1")
    cost = next((name for name, way in goals.items() if way == "min"), "macs")
    trained = trials.pareto.trained()
    trained = trained[trained[cost].notna() & trained[quality].notna()]
    if trained.empty:
        return pd.Series(dtype=float)
    x, y = trained[cost].to_numpy(dtype=float), trained[quality].to_numpy(dtype=float)
    return pd.Series(y - IsotonicRegression().fit(x, y).predict(x), index=trained.index)


def operator_effects(trials: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Return how much accuracy an operator has in a layer beyond what the cost predicts.

    The prediction is that of `excess`; trials that were stopped early are left out.

    Args:
        trials: of one run.
        layers: of these trials, as of `reports.layers`.

    Returns:
        A row per operator and layer: operator, layer, effect (the mean of quality minus
        prediction), trials (how many), front (how many of the front).
    """
    columns = ["operator", "layer", "effect", "trials", "front"]
    beyond = excess(trials)
    rest = pd.DataFrame({"trial": trials.loc[beyond.index, "trial"], "effect": beyond})
    if rest.empty:
        return pd.DataFrame(columns=columns)
    rest["front"] = rest["trial"].isin(trials.pareto.front()["trial"])
    joined = layers[["trial", "layer", "operator"]].merge(rest, on="trial")
    grouped = joined.groupby(["operator", "layer"], observed=True)
    table = grouped.agg(
        effect=("effect", "mean"), trials=("effect", "size"), front=("front", "sum")
    )
    return table.reset_index()[columns]


def rank_correlation(
    curves: pd.DataFrame, trials: pd.DataFrame, metric: str = "top1"
) -> pd.DataFrame:
    """Return how well the order of trials at an epoch agrees with their final order.

    Args:
        curves: as of `reports.load_curves`.
        trials: of the same run; only fully trained ones enter.
        metric: of the curves.

    Returns:
        A row per epoch: epoch, correlation (Spearman's, -1 to 1, NaN where undefined), trials.
        No row where fewer than five trials are fully trained.
    """
    trained = trials.pareto.trained()["trial"]
    chosen = curves[curves["trial"].isin(trained)]
    wide = chosen.pivot_table(index="epoch", columns="trial", values=metric)
    columns = ["epoch", "correlation", "trials"]
    if wide.shape[1] < 5:
        return pd.DataFrame(columns=columns)
    final = wide.ffill().iloc[-1].rank()
    rows = [_agreement(epoch, values, final) for epoch, values in wide.iterrows()]
    return pd.DataFrame(rows, columns=columns)


def _agreement(
    epoch: object, values: "pd.Series[float]", final: "pd.Series[float]"
) -> Sequence[object]:
    known = values.dropna()
    ranks, ends = known.rank(), final[known.index].rank()
    varies = ranks.std() > 0 and ends.std() > 0
    rho = float(np.corrcoef(ranks, ends)[0, 1]) if varies else float("nan")
    return epoch, rho, len(known)
