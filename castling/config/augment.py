"""Random changes of training images."""

from pydantic import Field

from castling.config.base import Config


class AugmentConfig(Config):
    """Random changes of each training image, drawn anew every epoch."""

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
