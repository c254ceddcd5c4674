"""Random changes of training images."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from castling.config.base import Config, OffIsText
from castling.errors import ConfigError


SMALL = "small"
Preset = Literal["small", "timm", "deit", "levit", "mvitv2"]
Range = tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]]
_TIMM: Mapping[str, Any] = {
    "auto_augment": "off",
    "color_jitter": 0.4,
    "random_erase": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "mix_probability": 1.0,
    "mix_switch": 0.5,
    "repeated": 1,
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (3.0 / 4.0, 4.0 / 3.0),
    "hflip": 0.5,
    "interpolation": "random",
}
_DEIT: Mapping[str, Any] = {
    **_TIMM,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.3,
    "random_erase": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "repeated": 3,
    "interpolation": "bicubic",
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    SMALL: {"mixup": 0.0, "cutmix": 0.0, "mix_probability": 1.0, "mix_switch": 0.5, "repeated": 1},
    "timm": _TIMM,
    "deit": _DEIT,
    "levit": _DEIT,
    "mvitv2": {
        **_DEIT,
        "auto_augment": "rand-m9-n6-mstd0.5",
        "color_jitter": 0.4,
        "repeated": 1,
    },
}
"""What each preset sets: timm's train.py, and the recipes of DeiT (Touvron et al., 2021), LeViT
(Graham et al., 2021), which is DeiT's, and MViTv2 (Li et al., 2022)."""


class AugmentConfig(Config):
    """Random changes of each training image, drawn anew every epoch.

    Other presets than `small` crop each picture at its own size; they do not read `shift`,
    `rotate`, `scale`, `flip` and `erase`, which belong to `small`. Each field below those replaces
    a value of the preset; null leaves it.
    """

    preset: Preset = "small"
    """small: the five fields below, on images of the model's size; timm, deit, levit, mvitv2:
    timm's transforms of pictures, as train.py of timm and as those papers use them."""
    shift: float = Field(default=0.0, ge=0.0, le=0.5)
    """Largest translation, as a fraction of the image side."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest rotation in degrees."""
    scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Largest relative change of size."""
    flip: bool = False
    """Mirror left-right with probability one half."""
    erase: float = Field(default=0.0, ge=0.0, le=1.0)
    """Probability of erasing a random square of a quarter to a half of the image side."""
    auto_augment: Annotated[str | None, OffIsText] = None
    """timm's policy, such as rand-m9-mstd0.5-inc1; off for none."""
    color_jitter: float | None = Field(default=None, ge=0.0)
    """Largest change of brightness, contrast and saturation; timm leaves it out where
    auto_augment is on."""
    random_erase: float | None = Field(default=None, ge=0.0, le=1.0)
    """Probability of filling a random rectangle with normal noise."""
    mixup: float | None = Field(default=None, ge=0.0)
    """Alpha of mixup's beta distribution; 0 for none."""
    cutmix: float | None = Field(default=None, ge=0.0)
    """Alpha of CutMix's beta distribution; 0 for none."""
    mix_probability: float | None = Field(default=None, ge=0.0, le=1.0)
    """Probability that a batch is mixed."""
    mix_switch: float | None = Field(default=None, ge=0.0, le=1.0)
    """Probability of CutMix in place of mixup where both are on."""
    repeated: int | None = Field(default=None, ge=1, le=16)
    """Times that each image of an epoch stands in it, changed differently; the epoch has as many
    images as before, of fewer pictures."""
    crop_scale: Range | None = None
    """Smallest and largest area of the random crop, as a fraction of the picture's."""
    crop_ratio: Range | None = None
    """Smallest and largest aspect ratio of the random crop."""
    hflip: float | None = Field(default=None, ge=0.0, le=1.0)
    """Probability of mirroring left-right."""
    interpolation: Literal["random", "bilinear", "bicubic", "lanczos"] | None = None
    """Filter of the crop's resize; random draws bilinear or bicubic."""

    @model_validator(mode="after")
    def _fields_belong_to_the_preset(self) -> "AugmentConfig":
        for name in PRESETS["timm"].keys() - PRESETS[self.preset].keys():
            if getattr(self, name) is not None:
                rule = f"must be left out with the preset {self.preset}, which crops no pictures"
                others = ", ".join(preset for preset in PRESETS if preset != SMALL)
                raise ConfigError(name, rule, getattr(self, name), f"set preset to {others}")
        for name in ("crop_scale", "crop_ratio"):
            ends = getattr(self, name)
            if ends is not None and ends[0] > ends[1]:
                raise ConfigError(name, "must be a smallest and a largest value", ends)
        return self

    @property
    def crops_pictures(self) -> bool:
        """Whether images are made from pictures of their own size, in place of arrays."""
        return self.preset != SMALL

    def filled(self) -> "AugmentConfig":
        """Return the config with every value that the preset sets in place of its null."""
        missing = {
            name: value
            for name, value in PRESETS[self.preset].items()
            if getattr(self, name) is None
        }
        return self.replace(**missing)
