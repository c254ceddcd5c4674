"""Expected hypervolume improvement in closed form, for exact and Gaussian objectives."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from castling.metrics import Direction
from reports.pareto import Points, nondominated


INV_SQRT_TAU = 0.3989422804014327
"""1 / sqrt(2 pi), of the normal density."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Predictions for candidates: every objective an independent Gaussian, to minimise."""

    mean: Points
    """(candidate, objective)."""
    std: Points
    """(candidate, objective); 0 for an exact objective."""

    def __len__(self) -> int:
        return len(self.mean)

    def without_last(self) -> "Forecast":
        """Return the forecast of all objectives but the last."""
        return Forecast(mean=self.mean[:, :-1], std=self.std[:, :-1])


def expected_improvement(forecast: Forecast, front: Points, reference: Points) -> Points:
    """Return the hypervolume that each candidate is expected to add to a front.

    A candidate X adds the part of the box from X to the reference that no point of the front
    covers. For independent objectives the expected volume of that part is the integral of
    P(X_1 <= u_1) ... P(X_d <= u_d) over the uncovered region. The region is cut into boxes by
    sweeping one objective after another, and over a box the integral is a product of differences
    of the partial expectations E[(u - X)+], which for a Gaussian are elementary: the result is
    exact for any number of objectives, and for one it is the usual expected improvement.

    Args:
        forecast: of the candidates.
        front: (point, objective), smaller better.
        reference: (objective), the worst values that count.

    Returns:
        (candidate)
    """
    counting = front[(front < reference).all(axis=1)]
    order = np.argsort([np.count_nonzero(column) for column in forecast.std.T], kind="stable")
    ordered = Forecast(mean=forecast.mean[:, order], std=forecast.std[:, order])
    return _uncovered(ordered, _undominated(counting[:, order]), reference[order])


def _uncovered(forecast: Forecast, front: Points, reference: Points) -> Points:
    """Return the expected volume between the candidates and the reference, less the front's.

    Args:
        forecast: of the candidates.
        front: (point, objective), none dominated by another.
        reference: (objective).
    """
    if len(reference) == 1:
        end = np.array([min(reference[0], front.min(initial=np.inf))])
        return _below(forecast.mean[:, 0], forecast.std[:, 0], end)[:, 0]
    front = front[np.argsort(front[:, -1], kind="stable")]
    ends = np.append(front[:, -1], reference[-1])
    reached = _below(forecast.mean[:, -1], forecast.std[:, -1], ends)
    rest = forecast.without_last()
    if len(reference) == 2:
        widths = np.diff(reached, axis=1, prepend=0.0)
        highest = np.minimum.accumulate(np.append(reference[0], front[:, 0]))
        return (widths * _below(rest.mean[:, 0], rest.std[:, 0], highest)).sum(axis=1)
    total, covering, begun = np.zeros(len(forecast)), front[:0, :-1], np.zeros(len(forecast))
    for number, member in enumerate(front[:, :-1]):
        if (covering <= member).all(axis=1).any():
            continue  # what it covers is covered: the slab goes on
        width = reached[:, number] - begun
        if width.any():
            total += width * _uncovered(rest, covering, reference[:-1])
        covering, begun = _undominated(np.vstack([covering, member])), reached[:, number]
    return total + (reached[:, -1] - begun) * _uncovered(rest, covering, reference[:-1])


def _undominated(points: Points) -> Points:
    if not len(points):
        return points
    directions: list[Direction] = ["min"] * points.shape[1]
    return points[nondominated(points, directions)]


def _below(mean: Points, std: Points, levels: Points) -> Points:
    """Return E[(level - X)+] of Gaussians; std 0 is an exact value.

    Args:
        mean: (candidate).
        std: (candidate).
        levels: (level).

    Returns:
        (candidate, level)
    """
    gap = levels[None, :] - mean[:, None]
    below = np.maximum(gap, 0.0)
    random = std > 0.0
    if random.any():
        spread, gap = std[random, None], gap[random]
        scaled = gap / spread
        density = INV_SQRT_TAU * np.exp(-0.5 * scaled**2)
        # cancellation far above the level leaves tiny negative numbers
        below[random] = np.maximum(gap * ndtr(scaled) + spread * density, 0.0)
    return below
