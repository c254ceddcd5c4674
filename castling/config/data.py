"""Which images a model is trained on, and how they are split."""

from pathlib import Path

from pydantic import Field

from castling.config.base import Config, Positive


class DataConfig(Config):
    """Which images, and how they are split."""

    name: str = "digits"
    """digits, fashion-mnist, or folder:PATH of class folders, or of train/ and test/ with them."""
    path: Path | None = None
    """Folder of the files, where a dataset needs files and they are not in the usual place."""
    num_train: Positive | None = None
    """Train on a class-balanced subset of this size; null takes all."""
    num_validation: Positive | None = None
    """Validate on a class-balanced subset of this size; null takes all."""
    split_seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the split into training, validation and test images."""
