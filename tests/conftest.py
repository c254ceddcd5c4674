"""One thread and one hypothesis profile for every test: quick on two cores, equal every time."""

import torch
from hypothesis import HealthCheck, settings


torch.set_num_threads(1)
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,  # first calls into torch are slow
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci")
