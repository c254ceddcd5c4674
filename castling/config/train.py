"""How a model is trained: optimiser, schedule, precision, checkpoints, what is kept."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from castling.config.augment import AugmentConfig
from castling.config.base import Config, OffIsText
from castling.config.distill import DistillConfig
from castling.config.limits import LARGEST_BATCH, MOST_EPOCHS
from castling.errors import ConfigError


TRIAL = "trial"
"""The value of `seed` that gives each trial of a search its own."""
ClassWeight = Annotated[float, Field(ge=0.0, le=1e6)]


class TrainConfig(Config):
    """How a model is trained: an optimiser, warm-up then a schedule, and the masks' schedules."""

    initial: str | None = None
    """Initial weights: a folder of castling; for a model of timm a checkpoint of timm, or
    `pretrained` to download timm's weights; null draws random weights."""
    distill: DistillConfig | None = None
    """Distillation from a teacher; null learns from the labels alone."""

    epochs: int = Field(default=40, ge=1, le=MOST_EPOCHS)
    """Passes over the training images."""
    batch_size: int = Field(default=64, ge=1, le=LARGEST_BATCH)
    """Images per step of the optimiser, over all processes."""
    accumulation: int = Field(default=1, ge=1, le=LARGEST_BATCH)
    """Parts of a step's batch that pass the model one after the other; their gradients add up to
    that of the whole batch. More parts need less memory."""

    optimizer: Literal["adamw", "adam", "nadamw", "lamb", "lion", "muon", "sgd", "rmsproptf"] = (
        "adamw"
    )
    """Optimiser by its name in timm; `sgd` has Nesterov momentum, `muon` updates weights of fewer
    than two axes by AdamW."""
    betas: tuple[float, float] | None = None
    """Decay rates of the running means of gradients and of their squares (adamw, adam, nadamw,
    lamb, lion, muon); null leaves the optimiser's own."""
    momentum: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Momentum of sgd, rmsproptf and muon; null means 0.9."""
    eps: float | None = Field(default=None, gt=0.0)
    """Added to the denominator of an update, for all optimisers but sgd and lion; null leaves the
    optimiser's own."""
    learning_rate: float = Field(default=3e-3, gt=0.0)
    """Peak learning rate, after warm-up."""
    learning_rate_base_batch: int | None = Field(default=None, ge=1, le=LARGEST_BATCH)
    """If set, `learning_rate` is of a batch of this many images and is multiplied by batch_size /
    learning_rate_base_batch; `warmup_rate` and `final_rate` are not. null uses it as it is."""
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)
    """Factor by which the learning rate falls from each layer to the one before it, from the head
    down; null gives all layers the same."""

    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """Course of the learning rate after warm-up: half a cosine or a line down to the final rate;
    by `decay_rate` every `decay_epochs`; or none."""
    decay_epochs: float = Field(default=30.0, gt=0.0)
    """Epochs, counted from the first, between two steps of the schedule `step`."""
    decay_rate: float = Field(default=0.1, gt=0.0, le=1.0)
    """Factor of the learning rate at each step of the schedule `step`."""
    final_learning_rate: float = Field(default=0.01, ge=0.0, le=1.0)
    """Learning rate at the end of `cosine` and `linear`, as a fraction of the peak."""
    final_rate: float | None = Field(default=None, ge=0.0)
    """The same as a rate of its own, in place of the fraction; null uses the fraction."""
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Fraction of the steps over which the learning rate rises linearly."""
    warmup_epochs: float | None = Field(default=None, ge=0.0)
    """The same in epochs, in place of the fraction; null uses the fraction."""
    warmup_rate: float = Field(default=0.0, ge=0.0)
    """Learning rate from which warm-up rises: at zero, the first step has the first rate above."""

    weight_decay: float = Field(default=0.05, ge=0.0)
    """Weight decay, of the weights of linear layers and convolutions only; decoupled where the
    optimiser is."""
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
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    """Limit of gradients, in the sense of `clip_mode`; null clips nothing."""
    clip_mode: Literal["norm", "agc", "value"] = "norm"
    """`norm`: the norm of all gradients is scaled down to the limit; `agc`: that of each unit, to
    the limit times the norm of its weights (adaptive gradient clipping); `value`: each entry."""

    augment: AugmentConfig = AugmentConfig()
    """Random changes of the training images."""
    precision: Literal["float32", "auto", "tf32", "bfloat16", "float16"] = "float32"
    """Arithmetic of training and evaluation. `tf32` rounds the factors of matrix products on a
    CUDA GPU; `auto` is tf32 there and float32 elsewhere; bfloat16 and float16 are autocasts,
    float16 with a scaled loss."""
    compile: Annotated[Literal["off", "blocks", "model"], OffIsText] = "off"
    """What torch.compile compiles: nothing, each block, or the whole model."""
    ema_decay: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Decay per step of the moving average of the weights, which is evaluated as `top1_ema` and
    so on; null takes none."""
    ema_warmup: bool = False
    """Whether that decay rises from 0, as 1 - (1 + step)^(-2/3), until it reaches `ema_decay`."""
    keep: Literal["last", "best", "ema"] = "last"
    """Weights that the training ends with: the last; those of the epoch whose castled model has
    the best value of the task's primary metric in validation; or the moving average."""
    checkpoint_minutes: float = Field(default=10.0, gt=0.0)
    """Longest time between two checkpoints, within an epoch too."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | Literal["trial"] = 0
    """Seed of initial weights, order, augmentation and drop path. `trial`, in a search, gives each
    trial its own, from the search's seed and its number; the trial's config holds it."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.accumulation > self.batch_size:
            rule = f"must be at most train.batch_size, {self.batch_size}: a part has an image"
            raise ConfigError("accumulation", rule, self.accumulation)
        if self.keep == "ema" and self.ema_decay is None:
            fix = "set train.ema_decay, such as 0.9999"
            raise ConfigError("keep", "must be last or best without a moving average", "ema", fix)
        for beta in self.betas or ():
            if not 0.0 <= beta < 1.0:
                raise ConfigError("betas", "must be two numbers from 0 up to 1, 1 excluded", beta)
        return self

    def fixed_seed(self) -> int:
        """Return the seed as a number; ConfigError where it is `trial`, outside of a search."""
        if isinstance(self.seed, str):
            rule = "must be a number outside of a search, which gives each trial its own"
            raise ConfigError("train.seed", rule, self.seed, "set train.seed=0, or another")
        return self.seed
