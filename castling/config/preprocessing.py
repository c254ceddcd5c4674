"""How an image becomes the input of a model, and what the outputs of the model mean."""

from typing import Literal

from pydantic import Field, model_validator

from castling.config.base import Config
from castling.config.limits import LARGEST_SIDE, MOST_CHANNELS, MOST_CLASSES
from castling.errors import ConfigError


class Preprocessing(Config):
    """The evaluation transform of a model, in the terms of timm's pretrained_cfg, and its classes.

    An image is resized and cropped, scaled to 0 to 1, then normalised: (pixels - mean) / std.
    """

    image_size: tuple[int, int]
    """Height and width of the input."""
    channels: int = Field(ge=1, le=MOST_CHANNELS)
    """1 for grey images, 3 for RGB."""
    mean: tuple[float, ...]
    """Per channel, of pixel values in 0 to 1."""
    std: tuple[float, ...]
    """Per channel, of pixel values in 0 to 1."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """Filter of the resize, antialiased as Pillow's."""
    crop_mode: Literal["squash", "center", "border"] = "squash"
    """squash: resize to the input's height and width, whatever the aspect ratio; center: resize
    the shorter side, then crop the middle; border: resize the longer side, then pad."""
    crop_pct: float = Field(default=1.0, gt=0.0, le=1.0)
    """Fraction of the resized image's side that the crop keeps."""
    classes: tuple[str, ...] = Field(default=(), max_length=MOST_CLASSES)
    """Name of each output, in order; empty where the outputs are no classes."""

    @model_validator(mode="after")
    def _fits_its_channels(self) -> "Preprocessing":
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                rule = f"must have a value for each of the {self.channels} channels"
                raise ConfigError(name, rule, values)
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ConfigError("classes", "must have different names", twice)
        if min(self.std) <= 0.0:
            raise ConfigError("std", "must be above 0", self.std)
        if not all(1 <= side <= LARGEST_SIDE for side in self.image_size):
            rule = f"must be two sides of 1 to {LARGEST_SIDE} pixels"
            raise ConfigError("image_size", rule, self.image_size)
        return self
