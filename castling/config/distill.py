"""How a model learns from a teacher."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from castling.config.base import Config
from castling.config.limits import MOST_CLASSES
from castling.errors import ConfigError


class DistillConfig(Config):
    """Distillation from a teacher: its logits, layer outputs and tokens.

    The teacher sees the very same augmented images, in eval mode. Logits as in DeiT (Touvron et
    al., 2021), with one head for labels and teacher; tokens as in SUN (Dong et al., 2022).
    """

    teacher: str = "initial"
    """initial: the model that `train.initial` names, as it is; or a folder of castling's; or
    timm's name of a model, of any architecture."""
    weights: Path | None = None
    """Checkpoint for a teacher of timm, .safetensors or .pth; null downloads timm's weights."""
    form: Literal["soft", "hard"] = "soft"
    """soft: T^2 KL(teacher || model) at temperature T; hard: cross entropy with the teacher's
    highest class."""
    weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """Weight of that loss; the cross entropy of the labels weighs 1 - weight."""
    temperature: float = Field(default=3.0, gt=0.0)
    """Divisor of both logits in the soft form."""
    layer_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the mean over attention layers of |student - teacher|^2 / |teacher|^2 of their
    outputs; 0 for a teacher with other layers."""
    token_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the tokens' cross entropy with the output of the teacher's classifier for its
    token at the same position; SUN uses 0.5, 0 turns it off."""
    token_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Probability mass of a token's target that is spread over all classes."""
    token_top: int = Field(default=5, ge=1, le=MOST_CLASSES)
    """Classes of a token's target: the most probable, made to sum to 1."""
    token_background: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Fraction of a batch's tokens, those of which the teacher is least certain, whose target is
    the additional class background."""

    @model_validator(mode="after")
    def _teaches(self) -> "DistillConfig":
        if self.weight == self.layer_weight == self.token_weight == 0.0:
            rule = "must be above 0 where layer_weight and token_weight are 0: nothing is taught"
            raise ConfigError("weight", rule, self.weight, "leave out `distill`")
        return self
