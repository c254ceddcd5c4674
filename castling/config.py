"""Models, trainings and data as frozen configs that check themselves and live in YAML."""

import hashlib
import json
import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from castling.errors import ConfigError
from castling.limits import (
    LARGEST_BATCH,
    LARGEST_HEAD,
    LARGEST_IMAGE,
    LARGEST_KERNEL,
    LARGEST_OPTION,
    LARGEST_RATIO,
    LARGEST_SIDE,
    MOST_BLOCKS,
    MOST_CHANNELS,
    MOST_CLASSES,
    MOST_EPOCHS,
    MOST_HEADS,
    MOST_PARAMS,
    MOST_TOKENS,
    WIDEST,
)
from castling.plain_yaml import read_yaml


C = TypeVar("C", bound="Config")
"""In place of typing.Self, which run-time type checking does not take on single methods."""


class Mark(Enum):
    """What a search must know of a field, as metadata of its annotation: Annotated[T, mark]."""

    COSTS_NOTHING = "changes neither MACs nor parameters of the castled model"
    SET_BY_DATA = "follows from the dataset, so that all trials of a search share it"


class Config(BaseModel):
    """Base of all configs: frozen, no unknown fields, errors as one `ConfigError` sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _first_problem(error, type(self)) from None

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, data: object) -> object:
        """Refuse `epochs: yes`, which pydantic would take for 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and field.annotation in (int, float):
                raise ConfigError(name, "must be a number", value)
        return data

    def replace(self: C, **changes: Any) -> C:
        """Return a copy with some fields changed, checked again."""
        return type(self)(**{**dict(self), **changes})

    def to_data(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, as YAML and JSON hold them."""
        return self.model_dump(mode="json")

    @classmethod
    def from_data(cls: type[C], data: object, where: str = "") -> C:
        """Build the config from plain data; `where` names the file in the error."""
        if not isinstance(data, dict):
            raise ConfigError(where, f"must be a mapping of {cls.__name__} fields", data)
        try:
            return cls(**{str(key): value for key, value in data.items()})
        except ConfigError as error:
            if not where:
                raise
            raise ConfigError(f"{where}: {error.field}", error.rule, error.value) from None


def _first_problem(error: ValidationError, config: type[BaseModel]) -> ConfigError:
    problem = error.errors(include_url=False)[0]
    path = ".".join(repr(step).strip("'") for step in problem["loc"])  # a key may hold anything
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        field = ".".join(step for step in (path, cause.field) if step)
        return ConfigError(field, cause.rule, cause.value, cause.fix)
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        return ConfigError(
            path,
            f"is not a field of {config.__name__} ({_fields(config)})",
            None,
            f"remove {name!r}",
        )
    if problem["type"] == "missing":
        return ConfigError(path, "is required")
    if cause is not None:
        return ConfigError(path, str(cause))
    rule = problem["msg"].replace("Input should", "must").replace("Value error, ", "")
    return ConfigError(path, rule, problem["input"])


def _fields(config: type[BaseModel]) -> str:
    return ", ".join(config.model_fields)


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
"""The fields of a layer that all operators know, and each may use or ignore."""

L = TypeVar("L", bound="LayerChoice")


class LayerChoice(Config):
    """What is chosen for one attention layer: operator, convolution, training-only branch."""

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
    """What only this operator has: window size, features, ...; `castling operators` lists them."""

    @model_validator(mode="after")
    def _buildable(self) -> "LayerChoice":
        from castling.operators import OPERATORS  # imports torch, hence only once a layer is made

        if self.operator not in OPERATORS:
            raise ConfigError("operator", f"must be one of {', '.join(OPERATORS)}", self.operator)
        if self.conv_kernel % 2 == 0:
            raise ConfigError("conv_kernel", "must be odd", self.conv_kernel)
        try:
            OPERATORS[self.operator].options(**self.options)
        except ConfigError as error:
            rule = f"{error.rule} (options of {self.operator})"
            raise ConfigError(f"options.{error.field}", rule, error.value, error.fix) from None
        return self

    def complete(self: L) -> L:
        """Return the layer with every option of its operator, those left out at their default."""
        from castling.operators import OPERATORS

        options = OPERATORS[self.operator].options(**self.options)
        return self.replace(options=options.to_data())

    def canonical(self: L) -> L:
        """Return the layer with every field its operator ignores set to the default."""
        from castling.operators import OPERATORS

        fields = type(self).model_fields
        ignored = (OPERATOR_FIELDS - OPERATORS[self.operator].uses) & fields.keys()
        layer = self.complete().replace(**{name: fields[name].default for name in ignored})
        return layer.replace(mask=None if layer.mask is None else layer.mask.canonical())


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


def pair(value: object) -> object:
    """Return a number twice, as height and width; anything else as it is."""
    return (value, value) if type(value) is int else value


Positive = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
"""Pixels of a side."""


class ModelConfig(Config):
    """A CastlingViT: everything needed to build it."""

    image_size: Annotated[tuple[Side, Side], BeforeValidator(pair), Mark.SET_BY_DATA] = (8, 8)
    """Height and width in pixels; one number means a square."""
    channels: Annotated[int, Mark.SET_BY_DATA] = Field(default=1, ge=1, le=MOST_CHANNELS)
    """Image channels."""
    num_classes: Annotated[int, Mark.SET_BY_DATA] = Field(default=10, ge=1, le=MOST_CLASSES)
    """Classes."""
    patch_size: Side = 2
    """Side of the square patches in pixels; must divide the image."""
    embed_width: int = Field(default=48, ge=1, le=WIDEST)
    """Channels of a token."""
    pooling: Literal["cls", "mean"] = "mean"
    """What the classifier sees: a class token or the mean over tokens."""
    qkv_bias: bool = True
    """Whether the query, key and value projections have a bias."""
    blocks: tuple[BlockConfig, ...] = Field(
        default_factory=lambda: (BlockConfig(),), min_length=1, max_length=MOST_BLOCKS
    )
    """The blocks, first to last."""

    @model_validator(mode="after")
    def _patches_fit(self) -> "ModelConfig":
        if any(side % self.patch_size for side in self.image_size):
            raise ConfigError(
                "patch_size", f"must divide the image of {self.image_size} pixels", self.patch_size
            )
        height, width = self.image_size
        if height * width // self.patch_size**2 > MOST_TOKENS:
            rule = f"must give at most {MOST_TOKENS:,} patches of {self.image_size} pixels"
            raise ConfigError("patch_size", rule, self.patch_size)
        _check_image(self.channels, self.image_size)
        return self

    @model_validator(mode="after")
    def _operators_fit(self) -> "ModelConfig":
        from castling.operators import OPERATORS
        from castling.operators.spec import layer_shapes

        for layer, shape in enumerate(layer_shapes(self)):
            rule = OPERATORS[shape.block.operator].check(shape)
            if rule:
                raise ConfigError(f"blocks.{layer}.operator", rule, shape.block.operator)
        return self

    @model_validator(mode="after")
    def _of_a_size(self) -> "ModelConfig":
        """Refuse what no machine holds; biases and norms are not counted."""
        from castling.operators import OPERATORS
        from castling.operators.spec import layer_shapes

        shapes, width = layer_shapes(self), self.embed_width
        inputs = self.channels * self.patch_size**2 + shapes[0].grid.num_tokens
        weights = (inputs + self.num_classes) * width
        for shape in shapes:
            hidden = int(width * shape.block.mlp_ratio)
            weights += OPERATORS[shape.block.operator].params(shape) + 2 * width * hidden
        if weights > MOST_PARAMS:
            rule = (
                f"must have blocks, classes and widths of at most {MOST_PARAMS:,} weights in all"
            )
            raise ConfigError("embed_width", rule, weights)
        return self

    def castled(self) -> "ModelConfig":
        """Return the config of the inference model: no block has a training-only branch."""
        return self.replace(blocks=tuple(block.replace(mask=None) for block in self.blocks))

    def canonical(self) -> "ModelConfig":
        """Return the config with every ignored field at its default: equal models become equal."""
        return self.replace(blocks=tuple(block.canonical() for block in self.blocks))


def _check_image(channels: int, image_size: tuple[int, int]) -> None:
    if channels * image_size[0] * image_size[1] > LARGEST_IMAGE:
        rule = f"must be images of at most {LARGEST_IMAGE:,} numbers, over {channels:,} channels"
        raise ConfigError("image_size", rule, image_size)


def _plain_data(value: object) -> object:
    """Return a value as YAML and JSON give it back: tuples become lists."""
    try:
        data: object = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise ConfigError("", "must be plain data, as YAML holds it", value) from None
    _check_numbers(data)
    return data


def _check_numbers(data: object) -> None:
    """Raise ConfigError where a number in plain data is beyond what timm's options hold."""
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            _check_numbers(value)
    elif isinstance(data, int | float) and abs(data) > LARGEST_OPTION:
        raise ConfigError("", f"must have numbers of at most {LARGEST_OPTION:,}", data)


_NO_OPTIONS = {
    "img_size": "is set by image_size",
    "in_chans": "is set by channels",
    "num_classes": "is set by num_classes beside options",
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
        "is no part of a model: train.initial names the weights to begin with",
    ),
}
"""What timm's constructor takes and a config does not, and why."""


class StockBackbone(Config):
    """A model of timm as it is: what `timm.create_model` needs to build it."""

    backbone: str
    """timm's name of the architecture: deit_tiny_patch16_224, levit_128, mvitv2_tiny..."""
    image_size: Annotated[tuple[Side, Side], BeforeValidator(pair), Mark.SET_BY_DATA] = (224, 224)
    """Height and width in pixels; one number means a square."""
    channels: Annotated[int, Mark.SET_BY_DATA] = Field(default=3, ge=1, le=MOST_CHANNELS)
    """Image channels."""
    num_classes: Annotated[int, Mark.SET_BY_DATA] = Field(default=1000, ge=0, le=MOST_CLASSES)
    """Classes; 0 leaves out the classifier, as in timm."""
    options: Annotated[dict[str, Any], BeforeValidator(_plain_data)] = Field(default_factory=dict)
    """What else timm's constructor takes: drop_path_rate, depth, embed_dim, window_size..."""

    @model_validator(mode="after")
    def _no_option_twice(self) -> "StockBackbone":
        for name in self.options.keys() & _NO_OPTIONS.keys():
            raise ConfigError(f"options.{name}", _NO_OPTIONS[name], fix=f"remove {name!r}")
        _check_image(self.channels, self.image_size)
        return self


class BackboneConfig(StockBackbone):
    """A model of timm, its attention layers castled in place: everything needed to build it."""

    blocks: tuple[LayerChoice, ...]
    """The choice of every attention layer, first to last; softmax leaves timm's layer as it is.
    In YAML, one choice stands for that choice in every layer, an operator's name for its defaults.
    """

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: object) -> object:
        if not isinstance(data, dict) or "blocks" not in data:
            return data
        stock = {name: value for name, value in data.items() if name != "blocks"}
        choices = data["blocks"]
        if isinstance(choices, str | dict):
            from castling.model.hosts.anatomy import anatomy_of

            choices = (choices,) * len(anatomy_of(StockBackbone(**stock)).layers)
        if isinstance(choices, list | tuple):
            named = [{"operator": one} if isinstance(one, str) else one for one in choices]
            return {**stock, "blocks": tuple(named)}
        return data

    @model_validator(mode="after")
    def _layers_fit(self) -> "BackboneConfig":
        from castling.model.hosts.anatomy import anatomy_of

        anatomy_of(self).check(self.blocks)
        return self

    def castled(self) -> "BackboneConfig":
        """Return the config of the inference model: no layer has a training-only branch."""
        return self.replace(blocks=tuple(layer.replace(mask=None) for layer in self.blocks))

    def canonical(self) -> "BackboneConfig":
        """Return the config with every ignored field at its default: equal models become equal."""
        return self.replace(blocks=tuple(layer.canonical() for layer in self.blocks))


Architecture: TypeAlias = ModelConfig | BackboneConfig
"""The config of a model: of a CastlingViT, or of one of timm's."""


def _architecture(value: object) -> object:
    """Build the config of a model, which of the two its fields tell."""
    if isinstance(value, ModelConfig | BackboneConfig):
        return value
    kind = BackboneConfig if isinstance(value, dict) and "backbone" in value else ModelConfig
    return kind.from_data(value)


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
    """What a teacher shows a model beside the labels: its logits, layer outputs and tokens.

    The teacher sees the very same augmented images, in eval mode. Logits as in DeiT (Touvron et
    al., 2021), with one head for labels and teacher; tokens as in SUN (Dong et al., 2022).
    """

    teacher: str = "initial"
    """initial: the model that `train.initial` names, as it is; or a folder of castling's; or
    timm's name of a model, of any architecture."""
    weights: Path | None = None
    """Checkpoint of a teacher of timm's, .safetensors or .pth; null downloads timm's own."""
    form: Literal["soft", "hard"] = "soft"
    """soft: T^2 KL(teacher || model) at temperature T; hard: cross entropy with the teacher's
    highest class."""
    weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """Weight of that loss; the cross entropy of the labels weighs 1 - weight."""
    temperature: float = Field(default=3.0, gt=0.0)
    """Divisor of both logits in the soft form."""
    layer_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the mean over attention layers of |student - teacher|^2 / |teacher|^2 of what
    the layers give; 0 for a teacher with other layers."""
    token_weight: float = Field(default=0.0, ge=0.0)
    """Weight of the tokens' cross entropy with what the teacher's classifier says of its own
    token at the same place; SUN takes 0.5, 0 leaves it out."""
    token_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Probability mass of a token's target that is spread over all classes."""
    token_top: int = Field(default=5, ge=1, le=MOST_CLASSES)
    """Classes of a token's target: the most probable, made to sum to 1."""
    token_background: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Fraction of a batch's tokens, those the teacher is least sure of, whose target is a class
    of its own: background."""

    @model_validator(mode="after")
    def _teaches(self) -> "DistillConfig":
        if self.weight == self.layer_weight == self.token_weight == 0.0:
            rule = "must be above 0 where layer_weight and token_weight are 0: nothing is taught"
            raise ConfigError("weight", rule, self.weight, "leave out `distill`")
        return self


class TrainConfig(Config):
    """How a model is trained: AdamW, warm-up then cosine, and the mask schedules by step."""

    initial: str | None = None
    """Weights to begin with: a folder of castling's; for a model of timm a checkpoint of its, or
    `pretrained` to download timm's own; null begins at random."""
    distill: DistillConfig | None = None
    """What a teacher adds to the labels; null learns from the labels alone."""

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
    """MACs that gated layers aim at, as a fraction of theirs with every gate open."""
    gate_weight: float = Field(default=1.0, ge=0.0)
    """Weight in the loss of the squared relative distance from that target."""
    gate_rate: float = Field(default=10.0, gt=0.0)
    """Learning rate of gates, as a multiple of everything else's: they have few steps to move."""
    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest gradient norm; larger gradients are scaled down to it."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of the training images."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass (bfloat16 by autocast)."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of initial weights, order, augmentation and drop path."""


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


class RunConfig(Config):
    """One complete training: model, training scheme, data."""

    model: Annotated[Architecture, BeforeValidator(_architecture)] = Field(
        default_factory=ModelConfig
    )
    """A CastlingViT, or with the field `backbone` a model of timm."""
    train: Annotated[TrainConfig, Mark.COSTS_NOTHING] = TrainConfig()
    data: Annotated[DataConfig, Mark.COSTS_NOTHING, Mark.SET_BY_DATA] = DataConfig()

    def canonical(self) -> "RunConfig":
        """Return the config with every ignored field at its default."""
        return self.replace(model=self.model.canonical())

    def digest(self) -> str:
        """Return the hash by which equal trainings are known: of the canonical config."""
        text = json.dumps(self.canonical().to_data(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_run_config(path: Path) -> RunConfig:
    """Return the RunConfig of a YAML file, or of the config.yaml in a folder."""
    file = path / "config.yaml" if path.is_dir() else path
    return RunConfig.from_data(read_yaml(file), str(file))
