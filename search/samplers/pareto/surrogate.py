"""The surrogate of a learnt metric: a Gaussian process over encoded points."""

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Hyperparameter, Kernel, WhiteKernel

from reports.pareto import Points


Groups: TypeAlias = tuple[tuple[int, ...], ...]
"""The columns of each group of features; a group shares one weight."""

Loss: TypeAlias = Callable[[Points], tuple[float, Points]]
"""The negative log likelihood of the kernel's log parameters, and its gradient."""

WEIGHT, NOISE, PRIOR_SPREAD = 2.4, 1e-3, 1.5
"""Middle of the prior of the sum of all weights, and of the noise's share of the variance, and the
log width of both priors.

The squared distance of two points grows with the number of groups. Were the prior of each weight
the same in all spaces, two points of many dimensions would seem unrelated, and a few trials would
teach nothing. So the weights' middle falls with the number of groups, as in Hvarfner et al.,
Vanilla Bayesian Optimization Performs Great in High Dimensions, 2024, whose length scales grow
with the root of the number of dimensions.
"""
JITTER = 1e-8
MOST_FITTED = 100
"""Trials whose likelihood chooses the kernel's parameters; all trials enter the prediction."""
MOST_STEPS = 30
OUTLIER = 2.0
"""Bad results are clipped so many interquartile ranges beyond the worse quartile."""


class GroupedRBF(Kernel):  # type: ignore[misc]
    """exp(-1/2 sum over groups of weight * squared distance within the group's columns).

    Over one-hot columns the squared distance counts the choices in which two points differ: there
    it is a Hamming kernel, over columns of numbers a smooth one.

    Args:
        weights: (group), each positive.
        groups: the columns of each group.
        limits: of every weight.
    """

    def __init__(
        self, weights: Points, groups: Groups, limits: tuple[float, float] = (1e-4, 1e2)
    ) -> None:
        self.weights, self.groups, self.limits = weights, groups, limits

    @property
    def hyperparameter_weights(self) -> Hyperparameter:
        """The weights, to sklearn, which fits their logarithms."""
        return Hyperparameter("weights", "numeric", self.limits, len(self.groups))

    def __call__(
        self,
        x: Points,
        y: Points | None = None,
        eval_gradient: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Return the covariance of the rows, and with it its gradient by the log weights."""
        scale = np.zeros(x.shape[1])
        weights = np.atleast_1d(self.weights)
        for weight, columns in zip(weights, self.groups, strict=True):
            scale[list(columns)] = np.sqrt(weight)
        other = x if y is None else y
        covariance = np.exp(-0.5 * _squared_distances(x * scale, other * scale))
        if not eval_gradient:
            return covariance
        distances = _grouped_distances(np.ascontiguousarray(x).tobytes(), x.shape[1], self.groups)
        return covariance, -0.5 * weights * distances * covariance[:, :, None]

    def diag(self, x: Points) -> Points:
        """Return the variances, all 1."""
        return np.ones(len(x))

    def is_stationary(self) -> bool:
        """Return whether only differences matter."""
        return True


@lru_cache(maxsize=2)
def _grouped_distances(rows: bytes, width: int, groups: Groups) -> Points:
    """Return the squared distances of rows by group, (row, row, group); a fit asks repeatedly."""
    x = np.frombuffer(rows).reshape(-1, width)
    parts = [x[:, list(columns)] for columns in groups]
    return np.stack([_squared_distances(part, part) for part in parts], axis=-1)


def _squared_distances(x: Points, y: Points) -> Points:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2.0 * x @ y.T
    return np.maximum(squares, 0.0)


class Surrogate:
    """A Gaussian process of one metric to minimise; kernel and noise are fitted together.

    Args:
        features: (trial, feature).
        values: (trial), to minimise; far outliers on the bad side are clipped, because how bad a
            bad result is says nothing about the front.
        groups: the columns of each group of features.
        std: (trial), the standard deviation of a forecast value, 0 of a measured one; None
            stands for zeros.
    """

    def __init__(
        self, features: Points, values: Points, groups: Groups, std: Points | None = None
    ) -> None:
        std = np.zeros(len(values)) if std is None else std
        usual = _without_outliers(values)
        self._offset = float(usual.mean())
        self._scale = max(float(usual.std()), 1e-12 * max(1.0, abs(self._offset)))
        self._features, self._targets = features, (usual - self._offset) / self._scale
        chosen = np.linspace(0, len(usual) - 1, min(len(usual), MOST_FITTED)).astype(np.intp)
        self._variances = JITTER + (std / self._scale) ** 2
        self._kernel = _fitted(
            features[chosen], self._targets[chosen], self._variances[chosen], groups
        )
        self._process = self._conditioned()

    def imagine(self, features: Points, values: Points) -> None:
        """Condition on predicted results too; the kernel stays."""
        if len(features):
            self._features = np.concatenate([self._features, features])
            imagined = (values - self._offset) / self._scale
            self._targets = np.concatenate([self._targets, imagined])
            self._variances = np.append(self._variances, np.full(len(features), JITTER))
            self._process = self._conditioned()

    def predict(self, features: Points) -> tuple[Points, Points]:
        """Return mean and standard deviation of the metric without its noise, (row) each."""
        if not len(features):
            return np.empty(0), np.empty(0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Predicted variances smaller than 0")
            mean, std = self._process.predict(features, return_std=True)
        noise = self._kernel.k2.noise_level
        spread = np.sqrt(np.maximum(std**2 - noise, 1e-12))
        return mean * self._scale + self._offset, spread * self._scale

    def leave_one_out(self) -> tuple[Points, Points]:
        """Return mean and standard deviation, with the noise, of each trial from all others.

        With the covariance K of the trials and their values y, the mean of trial i is
        y_i - (K^-1 y)_i / (K^-1)_ii and its variance 1 / (K^-1)_ii (Rasmussen and Williams,
        Gaussian Processes for Machine Learning, 2006, section 5.4.2).
        """
        covariance = self._kernel(self._features) + np.diag(self._variances)
        inverse = np.linalg.inv(covariance)
        spread = 1.0 / np.diag(inverse)
        mean = self._targets - (inverse @ self._targets) * spread
        return mean * self._scale + self._offset, np.sqrt(spread) * self._scale

    def _conditioned(self) -> GaussianProcessRegressor:
        process = GaussianProcessRegressor(self._kernel, alpha=self._variances, optimizer=None)
        return process.fit(self._features, self._targets)


def _without_outliers(values: Points) -> Points:
    low, high = np.quantile(values, [0.25, 0.75])
    return np.minimum(values, high + OUTLIER * max(high - low, 0.0))


def _fitted(features: Points, targets: Points, variances: Points, groups: Groups) -> Kernel:
    """Return the kernel of the highest posterior density, likelihood times a broad prior."""
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * GroupedRBF(
        np.full(len(groups), WEIGHT / len(groups)), groups
    ) + WhiteKernel(NOISE, (1e-5, 0.5))
    start = kernel.theta.copy()
    spread = np.concatenate([[1.0], np.full(len(groups), PRIOR_SPREAD), [PRIOR_SPREAD]])

    def most_probable(loss: Loss, theta: Points, bounds: Points) -> tuple[Points, float]:
        def penalised(theta: Points) -> tuple[float, Points]:
            value, slope = loss(theta)
            distance = (theta - start) / spread
            return value + 0.5 * float(distance @ distance), slope + distance / spread

        found = minimize(
            penalised,
            theta,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": MOST_STEPS},
        )
        return found.x, float(found.fun)

    process = GaussianProcessRegressor(kernel, alpha=variances, optimizer=most_probable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound may be the best value
        return process.fit(features, targets).kernel_
