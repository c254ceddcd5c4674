"""Dominance, fronts and hypervolume of points with NaN and ties, as functions of numpy arrays."""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from castling.errors import ConfigError
from castling.metrics import Direction


Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
"""One row per point, one column per objective."""


def dominated_naive(points: ArrayLike, directions: Sequence[Direction]) -> Mask:
    """Return which points are dominated, by definition: the oracle of the fast functions.

    A point dominates another when it is at least as good in every objective and better in one.
    NaN compares false, so a point with a NaN neither dominates nor is dominated.
    """
    costs = _costs(points, directions)
    return np.array(
        [any((b <= a).all() and (b < a).any() for b in costs) for a in costs], dtype=np.bool_
    )


def dominated(points: ArrayLike, directions: Sequence[Direction]) -> Mask:
    """Return which points are dominated, in O(n log n) for up to three objectives."""
    measured, selected = _swept(points, directions, keep_equal=True)
    return measured & ~selected


def nondominated(points: ArrayLike, directions: Sequence[Direction]) -> Mask:
    """Return which points are the front: not dominated, without NaN, the first of equal ones."""
    return _swept(points, directions, keep_equal=False)[1]


def _swept(
    points: ArrayLike, directions: Sequence[Direction], *, keep_equal: bool
) -> tuple[Mask, Mask]:
    """Return which points have no NaN, and which of these the dimension sweep keeps."""
    costs = _costs(points, directions)
    measured = np.asarray(~np.isnan(costs).any(axis=1))
    selected = np.zeros(len(costs), dtype=np.bool_)
    ranks = [np.unique(column, return_inverse=True)[1] for column in costs[measured].T]
    # dominance is a matter of order alone, and moocore crashes on -inf in three objectives
    selected[measured] = moocore.is_nondominated(np.column_stack(ranks), keep_weakly=keep_equal)
    return measured, selected


def hypervolume(
    points: ArrayLike,
    reference: Sequence[float],
    directions: Sequence[Direction],
    ideal: Sequence[float] | None = None,
) -> float:
    """Return the volume that points dominate, up to a reference point.

    A point that is not better than the reference in every objective contributes nothing, nor does
    one that is not finite.

    Args:
        points: one row per point, one column per objective.
        reference: the worst value of each objective that still counts.
        directions: of each objective.
        ideal: the best possible value of each; returns the fraction of its volume.

    Raises:
        ConfigError: when the ideal is not better than the reference in every objective.
    """
    costs, corner = _boxed(points, reference, directions, ideal)
    return _volume(costs, corner)


def running_hypervolume(
    points: ArrayLike,
    reference: Sequence[float],
    directions: Sequence[Direction],
    ideal: Sequence[float] | None = None,
) -> Points:
    """Return the hypervolume of the first point, of the first two, and so on."""
    costs, corner = _boxed(points, reference, directions, ideal)
    front, volumes = costs[:0], np.empty(len(costs))
    for number in range(len(costs)):
        if (front <= costs[number]).all(axis=1).any():  # adds nothing
            volumes[number] = volumes[number - 1]
            continue
        front = np.concatenate([front, costs[number : number + 1]])
        front = front[nondominated(front, ["min"] * len(directions))]
        volumes[number] = _volume(front, corner)
    return volumes


def _volume(costs: Points, corner: Points) -> float:
    measured = costs[~np.isnan(costs).any(axis=1)]
    return float(moocore.hypervolume(measured, ref=corner)) if len(measured) else 0.0


def _boxed(
    points: ArrayLike,
    reference: Sequence[float],
    directions: Sequence[Direction],
    ideal: Sequence[float] | None,
) -> tuple[Points, Points]:
    """Return points and reference so that smaller is better; with an ideal, it is 0, they are 1.

    A point better than the ideal is moved onto it; one that is not finite becomes NaN.
    """
    costs, corner = _costs(points, directions), _costs([reference], directions)[0]
    costs[~np.isfinite(costs).all(axis=1)] = np.nan
    if ideal is None:
        return costs, corner
    best = _costs([ideal], directions)[0]
    if not (best < corner).all():
        raise ConfigError("reference", f"must be worse than the ideal {[*ideal]}", [*reference])
    return (np.maximum(costs, best) - best) / (corner - best), np.ones(len(corner))


def _costs(points: ArrayLike, directions: Sequence[Direction]) -> Points:
    """Return points as an array in which smaller is better."""
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.empty((0, len(directions)))
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise ConfigError("points", f"must have {len(directions)} columns", array.shape)
    return array * [-1.0 if direction == "max" else 1.0 for direction in directions]
