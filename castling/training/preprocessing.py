"""The evaluation transform of a run: from its config, its data and its initial weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from castling.config import Normalisation, Preprocessing, RunConfig
from castling.data.dataset import DatasetInfo
from castling.data.statistics import Statistics
from castling.errors import ConfigError


CROPPED_PCT = 0.9
"""crop_pct of evaluations after a training on random crops, as LeViT and timm's newer recipes."""
PROVISIONAL = 0.5
"""Mean and standard deviation until the data's are computed; cropping does not read them, but
that padding of `border` is filled with the mean."""


def crop_of(run: RunConfig, info: DatasetInfo, *, pictures: bool) -> Preprocessing:
    """Return the transform of a run; mean and std are provisional where `statistics_of` is None.

    Args:
        run: its `data` decides; where that says auto, its initial weights, then its augmentation.
        info: shape and classes of the images.
        pictures: whether the images have sizes of their own, to which weights of timm can bring
            a crop; auto gives arrays, as of digits, what they had in version 0.1.

    Raises:
        ConfigError: when normalisation has another number of channels, or is to be pretrained
            where there are no such weights.
    """
    data = run.data
    weights = _of_weights(run) if pictures or data.normalisation == "pretrained" else {}
    cropped = pictures and run.train.augment.crops_pictures
    crop = {
        "crop_mode": "center" if cropped else "squash",
        "crop_pct": CROPPED_PCT if cropped else 1.0,
        "interpolation": "bicubic",
        **(weights if pictures else {}),
    }
    if data.crop_mode != "auto":
        if crop["crop_mode"] != data.crop_mode:
            crop["crop_pct"] = 1.0 if data.crop_mode == "squash" else CROPPED_PCT
        crop["crop_mode"] = data.crop_mode
    if data.crop_pct is not None:
        crop["crop_pct"] = data.crop_pct
    if data.interpolation != "auto":
        crop["interpolation"] = data.interpolation
    channels, height, width = info.image_shape
    mean, std = _fixed(run, weights, channels) or ([PROVISIONAL] * channels,) * 2
    return Preprocessing(
        image_size=(height, width),
        channels=channels,
        classes=info.classes,
        **{**crop, "mean": tuple(mean), "std": tuple(std)},
    )


def needs_statistics(run: RunConfig, *, pictures: bool) -> bool:
    """Return whether mean and standard deviation of a run are those of its training images."""
    chosen = run.data.normalisation
    if chosen == "auto":
        return not (pictures and "mean" in _of_weights(run))
    return chosen == "data"


def with_statistics(preprocessing: Preprocessing, found: Statistics) -> Preprocessing:
    """Return the transform with mean and standard deviation of the data."""
    return preprocessing.replace(mean=found.mean, std=found.std)


def _fixed(
    run: RunConfig, weights: Mapping[str, Any], channels: int
) -> tuple[list[float], list[float]] | None:
    """Return mean and std that do not depend on the images, or None."""
    chosen = run.data.normalisation
    if isinstance(chosen, Normalisation):
        if not len(chosen.mean) == len(chosen.std) == channels:
            rule = f"must have mean and std of the model's {channels} channels"
            raise ConfigError("data.normalisation", rule, chosen.to_data())
        return [*chosen.mean], [*chosen.std]
    if chosen == "pretrained" and "mean" not in weights:
        rule = "must be data or a mean and std where train.initial names no weights that have them"
        raise ConfigError("data.normalisation", rule, chosen)
    if chosen == "data" or "mean" not in weights:
        return None
    return _adapted(weights["mean"], channels), _adapted(weights["std"], channels)


def _adapted(values: tuple[float, ...], channels: int) -> list[float]:
    """Return values per channel for another number of channels: their mean, as timm does."""
    if len(values) == channels:
        return [*values]
    return [float(np.mean(values))] * channels


def _of_weights(run: RunConfig) -> dict[str, Any]:
    """Return what the initial weights say of their images; nothing if they say nothing."""
    from castling.model.architecture import architecture_of
    from castling.model.check import read_run_config

    initial = run.train.initial
    if initial is None:
        return {}
    names = ("mean", "std", "crop_mode", "crop_pct", "interpolation")
    if Path(initial).is_dir():
        stored = read_run_config(Path(initial)).preprocessing
        return {} if stored is None else {name: getattr(stored, name) for name in names}
    stock = architecture_of(run.model).stock()
    if stock is None:
        return {}
    import timm

    pretrained = timm.get_pretrained_cfg(stock.backbone)
    if pretrained is None:
        return {}
    found = {name: getattr(pretrained, name) for name in names}
    return {name: value for name, value in found.items() if value}
