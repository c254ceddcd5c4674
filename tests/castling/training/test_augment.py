import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Generator, Tensor

from castling.config import AugmentConfig
from castling.training.augment import augment


CONFIGS = st.builds(
    AugmentConfig,
    shift=st.floats(0.0, 0.5),
    rotate=st.floats(0.0, 180.0),
    scale=st.floats(0.0, 0.9),
    flip=st.booleans(),
    erase=st.floats(0.0, 1.0),
)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(99))


@given(CONFIGS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_shape_type_and_finite_values_are_kept(
    config: AugmentConfig, batch: int, channels: int, height: int, width: int
) -> None:
    images = noise(batch, channels, height, width)
    changed = augment(images, config, seeded())
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert torch.isfinite(changed).all()
    # Interpolation and border pixels invent no value beyond the image's own, erasing gives zero.
    assert changed.max() <= images.max().clamp_min(0.0) + 1e-5
    assert changed.min() >= images.min().clamp_max(0.0) - 1e-5


@given(CONFIGS, st.integers(0, 1000))
def test_a_generator_decides_everything(config: AugmentConfig, seed: int) -> None:
    images = noise(3, 1, 6, 5)
    before = images.clone()
    global_state = torch.random.get_rng_state()
    first, again = (augment(images, config, seeded(seed)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), global_state)


def test_another_seed_gives_other_images() -> None:
    config = AugmentConfig(shift=0.2)
    images = noise(2, 1, 8, 8)
    assert not torch.equal(augment(images, config, seeded(0)), augment(images, config, seeded(1)))
    generator = seeded(0)
    assert not torch.equal(augment(images, config, generator), augment(images, config, generator))


def test_without_settings_nothing_changes_and_nothing_is_drawn() -> None:
    images, generator = noise(4, 2, 5, 7), seeded()
    state = generator.get_state()
    assert torch.equal(augment(images, AugmentConfig(), generator), images)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 4), (28, 28)])
def test_a_flip_is_an_exact_mirror_of_half_of_the_images(size: tuple[int, int]) -> None:
    images = noise(200, 2, *size)
    changed = augment(images, AugmentConfig(flip=True), seeded())
    mirrored = 0
    for image, result in zip(images, changed, strict=True):
        same, flipped = ((result - of).abs().max() < 1e-4 for of in (image, image.flip(-1)))
        assert same != flipped
        mirrored += int(flipped)
    assert 70 <= mirrored <= 130


@pytest.mark.parametrize("shift", [0.05, 0.1, 0.25, 0.5])
def test_a_shift_moves_the_mass_by_at_most_its_limit(shift: float) -> None:
    side = 40
    images = torch.zeros(100, 1, side, side)
    images[:, :, 18:22, 18:22] = 1.0
    changed = augment(images, AugmentConfig(shift=shift), seeded())[:, 0]
    places = torch.arange(side) - (side - 1) / 2
    inside = changed.sum((1, 2)) > 15.99  # none of the mass has left the image
    moved = torch.stack(
        [
            (changed.sum(1) * places).sum(1) / changed.sum((1, 2)),
            (changed.sum(2) * places).sum(1) / changed.sum((1, 2)),
        ]
    )[:, inside]
    assert moved.abs().max() <= shift * side + 1e-3
    assert moved.abs().max() > min(shift, 0.45) * side * 0.8
    assert (moved[0] - moved[1]).abs().max() > 0.1 * shift * side  # each direction its own


@pytest.mark.parametrize("degrees", [10.0, 90.0, 180.0])
def test_a_rotation_turns_by_at_most_its_limit(degrees: float) -> None:
    side = 41
    images = torch.zeros(300, 1, side, side)
    images[:, :, 19:22, 34:37] = 1.0
    changed = augment(images, AugmentConfig(rotate=degrees), seeded())[:, 0]
    places = torch.arange(side) - (side - 1) / 2
    mass = changed.sum((1, 2))
    x, y = (changed.sum(1) * places).sum(1) / mass, (changed.sum(2) * places).sum(1) / mass
    angles = torch.atan2(y, x).rad2deg().abs()
    assert angles.max() <= degrees + 0.5
    assert angles.max() > 0.9 * degrees
    assert (torch.hypot(x, y) - 15.0).abs().max() < 0.3


def test_a_scale_changes_the_size_by_at_most_its_limit() -> None:
    images = torch.zeros(200, 1, 40, 40)
    images[:, :, 10:30, 10:30] = 1.0
    changed = augment(images, AugmentConfig(scale=0.3), seeded())
    sizes = changed.sum((1, 2, 3)).sqrt() / 20.0
    assert sizes.min() >= 0.7 - 0.02
    assert sizes.max() <= 1.3 + 0.02
    assert sizes.min() < 0.75
    assert sizes.max() > 1.25


def test_what_moves_in_is_the_border_pixel() -> None:
    images = torch.full((50, 1, 8, 8), 3.0)
    config = AugmentConfig(shift=0.5, rotate=45.0, scale=0.5)
    torch.testing.assert_close(augment(images, config, seeded()), images)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (16, 24)])
def test_erasing_sets_one_square_to_zero(size: tuple[int, int]) -> None:
    images = torch.ones(300, 2, *size)
    changed = augment(images, AugmentConfig(erase=1.0), seeded())
    assert torch.equal(changed[:, 0], changed[:, 1])
    for image in changed[:, 0]:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        assert torch.equal(image == 0, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            span = int(line.sum())
            first = int(line.int().argmax())
            assert line[first : first + span].all()
            assert math.floor(len(line) / 4) <= span <= math.ceil(len(line) / 2)


def test_the_probability_decides_how_many_are_erased() -> None:
    images = torch.ones(1000, 1, 8, 8)
    changed = augment(images, AugmentConfig(erase=0.3), seeded())
    erased = int((changed == 0).any(dim=3).any(dim=2).sum())
    assert 250 <= erased <= 350
    assert torch.equal(changed[(changed != 0).all(3).all(2)[:, 0]].unique(), torch.ones(1))
