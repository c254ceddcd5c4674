import itertools
import math

import pytest
from hypothesis import assume, given, strategies as st

from castling.config import TrainConfig
from castling.training.schedule import learning_rate


CONFIGS = st.builds(
    TrainConfig,
    learning_rate=st.floats(1e-6, 10.0),
    final_learning_rate=st.floats(0.0, 1.0),
    warmup=st.floats(0.0, 1.0, exclude_max=True),
)


@given(CONFIGS, st.integers(1, 500))
def test_the_rate_rises_to_its_peak_then_falls_towards_its_end(
    config: TrainConfig, num_steps: int
) -> None:
    rates = [learning_rate(config, step, num_steps) for step in range(num_steps)]
    warmup = round(config.warmup * num_steps)
    assume(warmup < num_steps)
    peak = config.learning_rate
    slack = 1e-9 * peak
    assert all(0.0 <= rate <= peak + slack for rate in rates)
    assert rates[0] > 0.0
    assert rates[warmup] == pytest.approx(peak)
    assert all(low <= high + slack for low, high in itertools.pairwise(rates[: warmup + 1]))
    falling = rates[warmup:]
    assert all(high >= low - slack for high, low in itertools.pairwise(falling))
    assert rates[-1] >= peak * config.final_learning_rate - slack


def test_the_rate_of_a_known_schedule() -> None:
    config = TrainConfig(learning_rate=1.0, final_learning_rate=0.1, warmup=0.2)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.1 + 0.9 / 2)
    assert rates[9] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 7 / 8)) / 2)


def test_a_training_of_one_step_has_a_rate() -> None:
    for warmup in (0.0, 0.4, 0.9):
        assert learning_rate(TrainConfig(learning_rate=2.0, warmup=warmup), 0, 1) == 2.0
