"""One thread for every test, and hypothesis: quick and equal every time, or thorough."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings


torch.set_num_threads(1)
for profile, examples in (("quick", 20), ("thorough", 200)):
    settings.register_profile(
        profile,
        derandomize=profile == "quick",
        deadline=None,  # first calls into torch are slow
        max_examples=examples,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask, until the end of the test."""
    earlier = os.umask(0o022)
    yield os.umask
    os.umask(earlier)
