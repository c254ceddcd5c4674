from pathlib import Path

import numpy as np
import pytest
from made_up_study import made_up_run

from search.samplers.pareto.calibration import calibration
from search.samplers.pareto.surrogate import Surrogate


def test_leaving_one_out_is_a_process_without_that_trial() -> None:
    rng = np.random.default_rng(0)
    features, noise = rng.random((12, 2)), 0.01 * rng.random(12)
    values = features @ [1.0, -2.0] + noise
    surrogate = Surrogate(features, values, ((0,), (1,)))
    mean, std = surrogate.leave_one_out()
    kernel, targets = surrogate._kernel, surrogate._targets
    for left in range(12):
        rest = np.arange(12) != left
        inside = kernel(features[rest]) + np.diag(surrogate._variances[rest])
        across = kernel(features[[left]], features[rest])
        expected = (across @ np.linalg.solve(inside, targets[rest]))[0]
        variance = kernel(features[[left]]) - across @ np.linalg.solve(inside, across.T)
        assert mean[left] == pytest.approx(expected * surrogate._scale + surrogate._offset)
        own = variance[0, 0] + surrogate._variances[left]
        assert std[left] == pytest.approx(own**0.5 * surrogate._scale)


def test_a_run_of_another_version_has_no_calibration(tmp_path: Path) -> None:
    assert calibration(made_up_run(tmp_path / "run", 12)) is None
