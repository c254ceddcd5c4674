from random import Random

import pytest
import torch

from castling.config import LayerChoice, ModelConfig
from castling.model.build import build
from castling.training.data import load_data
from space.cost import cost
from space.decode import decode
from space.domain import IntRange
from space.feasible import default_point
from space.measure import measure_cost
from space.point import Space
from space.presets import SPACES
from space.testing import SpaceContract


@pytest.fixture(params=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]()


def test_presets_are_listed_in_order() -> None:
    assert list(SPACES) == sorted(SPACES)
    assert {"digits", "fashion-mnist", "imagenet"} <= set(SPACES)


@pytest.mark.parametrize("name", list(SPACES))
class TestEverySpace(SpaceContract):
    pass


def test_every_depth_has_a_block_for_every_stage(space: Space) -> None:
    num_blocks = len(space.base.model.blocks)
    domain = space.domains.get("model.depth", IntRange(num_blocks, num_blocks))
    assert isinstance(domain, IntRange)
    assert domain.low >= space.num_stages
    assert num_blocks in domain


def test_values_at_the_ends_of_every_domain_make_a_model(space: Space) -> None:
    point = default_point(space)
    for name, domain in space.domains.items():
        for value in domain.extremes():
            decode(space, {**point, name: value})


def test_the_model_takes_images_of_the_presets_size(space: Space) -> None:
    model = space.base.model
    if isinstance(model, ModelConfig):
        model = model.replace(blocks=model.blocks[:1])
    images = torch.zeros(2, model.channels, *model.image_size)
    with torch.no_grad():
        assert build(model, seed=0)(images).shape == (2, model.num_classes)


def test_the_digits_preset_fits_its_dataset() -> None:
    base = SPACES["digits"]().base
    load_data(base.data, base.model)  # refuses images or classes that do not fit the model


@pytest.mark.parametrize(
    ("name", "num_patches"), [("digits", 16), ("fashion-mnist", 49), ("imagenet", 196)]
)
def test_presets_have_the_tokens_that_they_state(name: str, num_patches: int) -> None:
    model = SPACES[name]().base.model
    assert isinstance(model, ModelConfig)
    height, width = model.image_size
    assert (height // model.patch_size) * (width // model.patch_size) == num_patches


TRACED_SLOWLY = ("deit_tiny", "deit_small", "levit_256", "mvitv2_tiny", "swin_tiny")
"""Their kinds of attention are traced in tests/castling/model/adapters, in small models."""


@pytest.mark.parametrize(
    ("name", "num_layers", "gmacs"),
    [
        ("deit_tiny", 12, 1.254),
        ("deit_small", 12, 4.599),
        ("levit_128", 14, 0.406),
        ("levit_256", 14, 1.128),
        ("mvitv2_tiny", 10, 4.7),
        ("swin_tiny", 12, 4.5),
    ],
)
def test_timms_models_have_their_layers_and_published_cost(
    name: str, num_layers: int, gmacs: float
) -> None:
    model = SPACES[name]().base.model
    assert len(model.blocks) == num_layers
    softmax = model.replace(blocks=(LayerChoice(operator="softmax"),) * num_layers)
    assert cost(softmax).macs == pytest.approx(gmacs * 1e9, rel=0.005)


@pytest.mark.parametrize(
    "name", ["levit_128", *(pytest.param(name, marks=pytest.mark.slow) for name in TRACED_SLOWLY)]
)
def test_any_point_of_a_backbone_costs_what_is_measured(name: str) -> None:
    """At 64 pixels, where LeViT's last map has one token, and non-square."""
    space = SPACES[name]()
    side = (64, 96) if name.startswith("deit") else (64, 64)
    rng = Random(name)
    model = decode(space, space.sample(rng)).model.replace(image_size=side)
    assert cost(model) == measure_cost(model)
