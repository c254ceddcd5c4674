"""Which images a model is trained on, and how they are split."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from castling.config.base import Config, OffIsText, Positive
from castling.config.limits import MOST_CHANNELS, MOST_WORKERS


class Normalisation(Config):
    """Mean and standard deviation per channel, of pixel values in 0 to 1."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=MOST_CHANNELS)
    """One value for each channel of the model."""
    std: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(
        min_length=1, max_length=MOST_CHANNELS
    )
    """One value for each channel of the model."""


class DataConfig(Config):
    """Which images, and how they are split."""

    name: str = "digits"
    """digits, fashion-mnist, folder:PATH of class folders, or of train/, val/ and test/ with them,
    pack:PATH of `castling data pack`; hf:NAME of a dataset of Hugging Face in a folder or on its
    hub, torch:NAME of one of torchvision in `path`, wds:PATH of WebDataset's shards."""
    path: Path | None = None
    """Folder of the files, where a dataset needs files and they are not in the usual place."""
    label_column: str | None = Field(default=None, min_length=1)
    """Where the class of an image stands, for hf: the column, for wds: the key in the .json of an
    image. null is hf's only column of classes, or the one called label; wds's .cls."""
    download: bool = False
    """Whether torch: downloads a dataset that `path` lacks."""
    on_error: Literal["stop", "skip"] = "stop"
    """What becomes of files that are no readable images, and of class folders without images.
    stop: the training ends with the name of the first; skip: every image is decoded once before
    the training begins, and those that fail are counted, named in the run folder and not used."""
    num_train: Positive | None = None
    """Train on a class-balanced subset of this size; null takes all."""
    num_validation: Positive | None = None
    """Validate on a class-balanced subset of this size; null takes all."""
    split_seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the split into training, validation and test images."""
    cache: Annotated[Literal["auto", "memory", "disk", "off"], OffIsText] = "auto"
    """Where decoded images are held. auto: in memory where they are at most 1 GiB and a tenth of
    the free memory for each trial, else nowhere; disk: the training pictures as a pack of short
    side 256 in the user's cache folder, shared by trials; off: decoded anew every epoch."""
    loader_workers: Literal["auto"] | Annotated[int, Field(ge=0, le=MOST_WORKERS)] = "auto"
    """Processes of each training that decode pictures which are not in memory; batches do not
    depend on it. 0 decodes in the training itself; auto follows its CPU cores."""
    normalisation: Literal["auto", "data", "pretrained"] | Normalisation = "auto"
    """data: mean and deviation of the training images; pretrained: of the initial weights; auto:
    pretrained for pictures of any size where a training begins with weights of timm, or with a
    model that names its own, else data. Or a mapping of mean and std."""
    crop_mode: Literal["auto", "squash", "center", "border"] = "auto"
    """How pictures get the model's size in evaluations, as timm names it. squash: whatever the
    aspect ratio; center: the middle; border: padded. auto: that of the initial weights, as above;
    else center where the training crops pictures, else squash."""
    crop_pct: float | None = Field(default=None, gt=0.0, le=1.0)
    """Fraction of the resized image's side that this crop keeps; null follows crop_mode's auto:
    that of the weights, 0.9 or 1."""
    interpolation: Literal["auto", "nearest", "bilinear", "bicubic", "lanczos"] = "auto"
    """Filter of this resize; auto: that of the initial weights, else bicubic."""
