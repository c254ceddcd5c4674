"""Transforms of pictures: of evaluations, and timm's random ones of trainings."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from castling.config import AugmentConfig, Preprocessing
from castling.errors import ConfigError


if TYPE_CHECKING:
    from PIL.Image import Image


Transform = Callable[["Image"], Tensor]
"""From a picture of any size to (channel, height, width)."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode of pictures by their channels."""


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """Return the transform from a picture of Pillow to a float32 tensor (channel, height, width).

    It is timm's `create_transform` of a pretrained_cfg with the same values. Evaluations during
    and after a training apply it in two parts, pixels and normalisation, with the same result.

    Args:
        preprocessing: size, crop, filter, mean and standard deviation.
    """
    return _chain(_mode(preprocessing), _timm_evaluation(preprocessing, normalize=True))


def evaluation_pixels(preprocessing: Preprocessing) -> Transform:
    """Return `evaluation_transform` up to the pixels, uint8 (channel, height, width)."""
    return _chain(_mode(preprocessing), _timm_evaluation(preprocessing, normalize=False))


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return pixels (..., channel, height, width) as float32: (pixels / 255 - mean) / std.

    Args:
        images: uint8.
        mean: (channel, 1, 1).
        std: (channel, 1, 1).
    """
    # converted first: torch divides integers by way of a copy, in twice the time
    return images.to(torch.float32, copy=True).div_(255.0).sub_(mean).div_(std)


def is_squash(preprocessing: Preprocessing) -> bool:
    """Return whether the transform is the plain resize that `LabelledImages.read` applies."""
    plain = Preprocessing.model_fields
    return all(
        getattr(preprocessing, name) == plain[name].default
        for name in ("interpolation", "crop_mode", "crop_pct")
    )


def training_pixels(augment: AugmentConfig, preprocessing: Preprocessing) -> Transform:
    """Return timm's random transform of a preset that crops pictures, to uint8 pixels.

    Draws come from the global generators of `random`, numpy and torch. Erasing follows on
    normalised images, see `castling.data.streamed`.

    Args:
        augment: the preset and the fields that replace its values.
        preprocessing: size, channels, and the mean with which rotations fill corners.

    Raises:
        ConfigError: when timm has no such policy, or the images are neither grey nor colour.
    """
    from timm.data import create_transform

    filled: Any = augment.filled()
    policy = policy_of(augment)
    try:
        transform = create_transform(  # type: ignore[no-untyped-call, unused-ignore]
            (preprocessing.channels, *preprocessing.image_size),
            is_training=True,
            scale=filled.crop_scale,
            ratio=filled.crop_ratio,
            hflip=filled.hflip,
            color_jitter=filled.color_jitter,
            auto_augment=policy,
            interpolation=filled.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            normalize=False,
        )
    except Exception as error:  # noqa: BLE001 - timm asserts, indexes, converts
        rule = f"must be a policy of timm's ({type(error).__name__}: {error})"
        raise ConfigError("train.augment.auto_augment", rule, policy) from None
    _keep_a_bit(transform)
    return _chain(_mode(preprocessing), functools.partial(_checked, transform, augment.preset))


def policy_of(augment: AugmentConfig) -> str | None:
    """Return timm's name of the policy that a preset applies, None if it applies none."""
    filled: Any = augment.filled()
    policy: str | None = filled.auto_augment
    return None if policy in (None, "", "off") else policy


def _checked(transform: Transform, preset: str, picture: "Image") -> Tensor:
    """Return the transformed picture; ConfigError when Pillow cannot do what the preset asks."""
    import PIL

    try:
        return transform(picture)
    except Exception as error:  # whatever Pillow refuses
        rule = f"must be one that this Pillow can run ({type(error).__name__}: {error})"
        got = f"{preset} with Pillow {PIL.__version__}"
        raise ConfigError("train.augment.preset", rule, got, "choose another preset") from error


def _keep_a_bit(transform: Any) -> None:
    """Let a policy's posterize keep one bit at least: Pillow 13 refuses 0, a black image."""
    for step in transform.transforms:
        policies = [step.ops] if hasattr(step, "ops") else getattr(step, "policy", [])
        for ops in policies:
            for op in ops:
                if op.name.startswith("Posterize"):
                    op.level_fn = functools.partial(_one_bit_or_more, op.level_fn)


def _one_bit_or_more(level_fn: Callable[..., tuple[int]], level: float, hparams: Any) -> Any:
    return (max(1, level_fn(level, hparams)[0]),)


def _timm_evaluation(preprocessing: Preprocessing, *, normalize: bool) -> Transform:
    from timm.data import create_transform

    transform: Transform = create_transform(  # type: ignore[no-untyped-call, unused-ignore]
        (preprocessing.channels, *preprocessing.image_size),
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        normalize=normalize,
    )
    return transform


def _mode(preprocessing: Preprocessing) -> Callable[["Image"], "Image"]:
    """Return the conversion to grey or colour; ConfigError for other channels."""
    mode = MODES.get(preprocessing.channels)
    if mode is None:
        rule = "must be 1 or 3 for pictures that are cropped"
        raise ConfigError("model.channels", rule, preprocessing.channels)
    return functools.partial(_converted, mode)


def _converted(mode: str, picture: "Image") -> "Image":
    return picture if picture.mode == mode else picture.convert(mode)


def _chain(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Transform:
    return functools.partial(_applied, first, second)  # picklable, for loader workers


def _applied(first: Callable[[Any], Any], second: Callable[[Any], Any], value: Any) -> Any:
    return second(first(value))


def seed_of(*numbers: int) -> int:
    """Return the 32-bit hash of numbers that seeds the random draws of a sample or a step."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seeds_of(seed: int, numbers: Sequence[int]) -> list[int]:
    """Return 32-bit hashes of a seed with each of some numbers, for the draws of samples.

    They are splitmix64's (Steele, Lea and Flood, 2014), for a whole batch at once: numpy's
    SeedSequence takes 20 microseconds for each.
    """
    with np.errstate(over="ignore"):
        start = _mixed(np.array([seed % 2**64], np.uint64))
        return (_mixed(start + np.asarray(numbers, np.uint64)) >> np.uint64(32)).tolist()


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's next output for each state."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def seed_all(seed: int, *, numpy: bool = True) -> None:
    """Seed the global generators of `random`, numpy and torch on the CPU.

    Args:
        seed: of all of them.
        numpy: whether numpy's is seeded too, from which only timm's policies draw.
    """
    random.seed(seed)
    if numpy:
        np.random.seed(seed)  # noqa: NPY002 - timm draws from it
    torch.default_generator.manual_seed(seed)


@contextmanager
def draws_apart() -> Iterator[None]:
    """Leave the global generators afterwards as they were, for draws of a training itself."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
