"""How a model is trained: schedule, augmentation, distillation."""

from typing import Annotated, Literal

from pydantic import Field

from castling.config.augment import AugmentConfig
from castling.config.base import Config
from castling.config.distill import DistillConfig
from castling.config.limits import LARGEST_BATCH, MOST_EPOCHS


ClassWeight = Annotated[float, Field(ge=0.0, le=1e6)]


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
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """Of the task classification: cross entropy, or timm's binary cross entropy of every class."""
    class_weights: Literal["none", "balanced"] | tuple[ClassWeight, ...] = "none"
    """Weights of the classes in the loss: all equal, inverse to their numbers of training images,
    or one number per class."""
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """Order of the training images: each once per epoch, or drawn with replacement so that an
    epoch shows each class equally often on average."""
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
