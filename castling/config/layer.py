"""The choice for one layer of a model: operator, convolution, mask schedule, MLP."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from castling.config.base import Config, Mark
from castling.config.limits import (
    LARGEST_HEAD,
    LARGEST_KERNEL,
    LARGEST_RATIO,
    MOST_EPOCHS,
    MOST_HEADS,
)
from castling.errors import ConfigError


class MaskSchedule(Config):
    """How the threshold of the auxiliary masked softmax branch rises over training.

    The threshold eps is counted in multiples of uniform attention, eps = multiple / num_tokens. It
    starts at `start_multiple` and, unless constant, reaches 1, where no entry of a softmax can
    exceed it: the mask is exactly empty and dropping the branch changes nothing.
    """

    shape: Literal["constant", "linear", "cosine", "step"] = "linear"
    """constant never empties the mask; step rises in `num_steps` equal jumps."""
    start_multiple: float = Field(default=1.0, ge=0.0)
    """Threshold before `start`, in multiples of uniform attention."""
    start: float = Field(default=0.0, ge=0.0, le=1.0)
    """Fraction of training at which the threshold begins to rise."""
    end: float = Field(default=0.75, ge=0.0, le=1.0)
    """Fraction of training at which it has reached 1."""
    num_steps: int = Field(default=4, ge=1, le=MOST_EPOCHS)
    """Number of equal jumps of the step shape."""
    l1_weight: float = Field(default=0.0, ge=0.0)
    """Weight in the loss of the mean attention mass that survives the mask."""

    @model_validator(mode="after")
    def _ordered(self) -> "MaskSchedule":
        if self.start > self.end:
            raise ConfigError("start", f"must not exceed end={self.end}", self.start)
        return self

    def threshold(self, progress: float, num_tokens: int) -> float:
        """Return eps in [0, 1].

        Args:
            progress: fraction of training done, 0 to 1.
            num_tokens: number of tokens the attention is over, class token included.
        """
        first = min(1.0, self.start_multiple / num_tokens)
        return first + (1.0 - first) * self._rise(progress)

    def canonical(self) -> "MaskSchedule":
        """Return the schedule with every field its shape ignores set to the default."""
        ignored = {"constant": ("start", "end", "num_steps"), "step": ()}
        names = ignored.get(self.shape, ("num_steps",))
        return self.replace(**{name: type(self).model_fields[name].default for name in names})

    def _rise(self, progress: float) -> float:
        if self.shape == "constant":
            return 0.0
        if progress >= self.end:
            return 1.0
        if progress <= self.start:
            return 0.0
        ramp = (progress - self.start) / (self.end - self.start)
        if self.shape == "cosine":
            return (1.0 - math.cos(math.pi * ramp)) / 2.0
        if self.shape == "step":
            return math.floor(ramp * self.num_steps) / self.num_steps
        return ramp


OPERATOR_FIELDS = frozenset(
    {"num_heads", "head_size", "conv_kernel", "conv_form", "conv_filters", "mask"}
)
"""The fields of a layer that are common to all operators; each may use or ignore them."""


class LayerChoice(Config):
    """The choice for one attention layer: operator, convolution, training-only branch."""

    operator: str = "linear_angular"
    """Token mixer, a name of `castling operators`."""
    conv_kernel: int = Field(default=9, ge=1, le=LARGEST_KERNEL)
    """Taps of the depthwise convolution on the values, odd."""
    conv_form: Literal["tokens", "grid"] = "tokens"
    """tokens: 1-D along the flattened tokens (as released); grid: 2-D, class token bypasses."""
    conv_filters: Literal["head", "channel"] = "head"
    """One filter per head (as released) or per channel."""
    mask: Annotated[MaskSchedule | None, Mark.COSTS_NOTHING] = MaskSchedule()
    """Schedule of the auxiliary branch; null trains without one."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options of this operator only: window size, features, ...; `castling operators` lists
    them."""

    @field_validator("conv_kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ConfigError("", "must be odd", kernel)
        return kernel


class BlockConfig(LayerChoice):
    """One block of a CastlingViT: its layer's choice, attention width and MLP."""

    num_heads: int = Field(default=3, ge=1, le=MOST_HEADS)
    """Attention heads; the attention width is num_heads x head_size, free of the embed width."""
    head_size: int = Field(default=16, ge=1, le=LARGEST_HEAD)
    """Channels per head."""
    mlp: Literal["plain", "bidimensional", "shrinking"] = "plain"
    """bidimensional has LightViT's channel and spatial gates, shrinking SPViT's hidden gates."""
    mlp_ratio: float = Field(default=4.0, gt=0.0, le=LARGEST_RATIO)
    """Hidden width of the MLP as a multiple of the embed width."""
    drop_path: Annotated[float, Mark.COSTS_NOTHING] = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of skipping the block's residual branches for a sample in training."""

    @property
    def attention_width(self) -> int:
        """Channels of q, k and v together: num_heads x head_size."""
        return self.num_heads * self.head_size
