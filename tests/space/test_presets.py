import pytest
import torch

from castling.config import ModelConfig
from castling.model.build import build
from castling.training.data import load_data
from space.decode import decode
from space.domain import IntRange
from space.feasible import default_point
from space.point import DEPTH, Space
from space.presets import SPACES


@pytest.fixture(params=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]()


def test_presets_are_listed_in_order() -> None:
    assert list(SPACES) == sorted(SPACES)
    assert {"digits", "fashion-mnist", "imagenet"} <= set(SPACES)


@pytest.mark.parametrize("name", list(SPACES))
def test_a_preset_bears_its_name_and_says_what_it_is(name: str) -> None:
    assert SPACES[name]().name == name
    assert (SPACES[name].__doc__ or "").endswith(".")


def test_the_default_point_is_the_base(space: Space) -> None:
    point = default_point(space)
    space.check(point)
    assert decode(space, point) == space.base


def test_every_depth_has_a_block_for_every_stage(space: Space) -> None:
    domain = space.domains[DEPTH]
    assert isinstance(domain, IntRange)
    assert domain.low >= space.num_stages
    assert len(space.base.model.blocks) in domain


def test_values_at_the_ends_of_every_domain_make_a_model(space: Space) -> None:
    point = default_point(space)
    for name, domain in space.domains.items():
        for value in domain.extremes():
            decode(space, {**point, name: value})


def test_the_model_takes_images_of_the_presets_size(space: Space) -> None:
    model = space.base.model
    small = model.replace(blocks=model.blocks[:1])
    images = torch.zeros(2, model.channels, *model.image_size)
    assert build(small, seed=0)(images).shape == (2, model.num_classes)


def test_the_digits_preset_fits_its_dataset() -> None:
    base = SPACES["digits"]().base
    load_data(base.data, base.model)  # refuses images or classes that do not fit the model


@pytest.mark.parametrize(
    ("name", "num_patches"), [("digits", 16), ("fashion-mnist", 49), ("imagenet", 196)]
)
def test_presets_have_the_tokens_that_they_state(name: str, num_patches: int) -> None:
    model: ModelConfig = SPACES[name]().base.model
    height, width = model.image_size
    assert (height // model.patch_size) * (width // model.patch_size) == num_patches
