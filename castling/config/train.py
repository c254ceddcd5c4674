"""How a model is trained: schedule, augmentation, distillation."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from castling.config.base import Config
from castling.config.limits import LARGEST_BATCH, MOST_CLASSES, MOST_EPOCHS
from castling.errors import ConfigError


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


class TrainConfig(Config):
    """How a model is trained: AdamW, warm-up then cosine, and the mask schedules by step."""

    initial: str | None = None
    """Initial weights: a folder of castling; for a model of timm a checkpoint of timm, or
    `pretrained` to download timm's weights; null draws random weights."""
    distill: DistillConfig | None = None
    """Distillation from a teacher; null learns from the labels alone."""

    epochs: int = Field(default=40, ge=1, le=MOST_EPOCHS)
    """Passes over the training images."""
    batch_size: int = Field(default=64, ge=1, le=LARGEST_BATCH)
    """Images per step."""
    learning_rate: float = Field(default=3e-3, gt=0.0)
    """Peak learning rate of AdamW, after warm-up."""
    final_learning_rate: float = Field(default=0.01, ge=0.0, le=1.0)
    """Learning rate at the end, as a fraction of the peak."""
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Fraction of the steps over which the learning rate rises linearly from zero."""
    weight_decay: float = Field(default=0.05, ge=0.0)
    """Decoupled weight decay, of the weights of linear layers and convolutions only."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Probability mass spread over all classes."""
    gate_target: float = Field(default=0.5, gt=0.0, le=1.0)
    """Target MACs of gated layers, as a fraction of their MACs with every gate open."""
    gate_weight: float = Field(default=1.0, ge=0.0)
    """Weight in the loss of the squared relative distance from that target."""
    gate_rate: float = Field(default=10.0, gt=0.0)
    """Learning rate of gates, as a multiple of that of all other weights: they have few steps."""
    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest gradient norm; larger gradients are scaled down to it."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of the training images."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass (bfloat16 by autocast)."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of initial weights, order, augmentation and drop path."""
