"""Expected hypervolume improvement in closed form: of objectives that are known or Gaussian."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from reports.pareto import Points, nondominated
from reports.records import Direction


INV_SQRT_TAU = 0.3989422804014327
"""1 / sqrt(2 pi), of the normal density."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is believed of candidates: every objective an independent Gaussian, smaller better."""

    mean: Points
    """(candidate, objective)."""
    std: Points
    """(candidate, objective); 0 where the objective is known."""

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
    directions: list[Direction] = ["min"] * len(reference)
    kept = counting[nondominated(counting, directions)] if len(counting) else counting
    order = np.argsort([np.count_nonzero(column) for column in forecast.std.T], kind="stable")
    ordered = Forecast(mean=forecast.mean[:, order], std=forecast.std[:, order])
    return _uncovered(ordered, kept[:, order], reference[order])


def _uncovered(forecast: Forecast, front: Points, reference: Points) -> Points:
    """Return the expected volume between the candidates and the reference, less the front's."""
    mean, std = forecast.mean[:, -1], forecast.std[:, -1]
    if len(reference) == 1:
        return _below(mean, std, min(reference[0], front.min(initial=np.inf)))
    order = np.argsort(front[:, -1], kind="stable")
    front = front[order]
    total, begun = np.zeros(len(forecast)), np.zeros(len(forecast))
    ends = [*front[:, -1], reference[-1]]
    for number, end in enumerate(ends):
        if number and end == ends[number - 1]:
            continue
        reached = _below(mean, std, end)
        width = reached - begun
        if width.any():
            covering = front[:number, :-1]
            total += width * _uncovered(forecast.without_last(), covering, reference[:-1])
        begun = reached
    return total


def _below(mean: Points, std: Points, level: float) -> Points:
    """Return E[(level - X)+] of Gaussians; std 0 is a known value."""
    gap = level - mean
    below = np.maximum(gap, 0.0)
    random = std > 0.0
    if random.any():
        spread, gap = std[random], gap[random]
        scaled = gap / spread
        density = INV_SQRT_TAU * np.exp(-0.5 * scaled**2)
        # cancellation far above the level leaves tiny negative numbers
        below[random] = np.maximum(gap * ndtr(scaled) + spread * density, 0.0)
    return below
