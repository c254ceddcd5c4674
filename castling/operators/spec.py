"""The contract of an operator: how to build it, which fields it reads, its cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from castling.config import BlockConfig, Config, LayerChoice, ModelConfig
from castling.costs.cost import Cost
from castling.costs.handles import Handle
from castling.errors import ConfigError
from castling.registry import Registry


if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrid:
    """The tokens of a layer: `num_prefix` class tokens, then a height x width grid by rows."""

    height: int
    width: int
    num_prefix: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequence, class tokens included."""
        return self.height * self.width + self.num_prefix

    def check(self, num_tokens: "int | Tensor") -> None:
        """Raise ConfigError unless a sequence has as many tokens as this grid.

        Modules that depend on a grid call this first: with images of another size, tokens would be
        at wrong positions. While torch traces, sizes are tensors, and the grid is that of the
        trace.
        """
        if isinstance(num_tokens, int) and num_tokens != self.num_tokens:
            rule = f"must be that of the model, of which this layer has {self.num_tokens:,} tokens"
            raise other_size(rule, num_tokens)

    def check_sides(self, height: "int | Tensor", width: "int | Tensor") -> None:
        """Raise ConfigError unless a map of tokens has the sides of this grid."""
        whole = all(isinstance(side, int) for side in (height, width))
        if whole and (height, width) != (self.height, self.width):
            rule = (
                f"must be that of the model, of which this layer has {self.height} x {self.width}"
            )
            raise other_size(f"{rule} tokens", f"{height} x {width}")


def other_size(rule: str, got: object) -> ConfigError:
    """Return the error of images of another size than the model's."""
    fix = "resize the images, or build the model for their size"
    return ConfigError("image size", rule, got, fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """The shape of a layer for its operator: block config, embed width and tokens."""

    block: BlockConfig
    embed_width: int
    grid: TokenGrid
    qkv_bias: bool = True
    index: int = 0
    """Position of the block in the model, 0 for the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreShape:
    """The part of an attention between its projections: q, k and v per head.

    Query i stands at i x `query_stride` of the layer's input grid, key j at j x `key_stride`.
    """

    choice: LayerChoice
    num_heads: int
    key_size: int
    """Channels of q and k per head."""
    value_size: int
    """Channels of v per head."""
    queries: TokenGrid
    keys: TokenGrid
    query_stride: int = 1
    key_stride: int = 1


def layer_shapes(config: ModelConfig) -> list[LayerShape]:
    """Return the shapes of a model's layers, from which operators are built and priced."""
    height, width = config.image_size
    grid = TokenGrid(
        height=height // config.patch_size,
        width=width // config.patch_size,
        num_prefix=int(config.pooling == "cls"),
    )
    return [
        LayerShape(
            block=block,
            embed_width=config.embed_width,
            grid=grid,
            qkv_bias=config.qkv_bias,
            index=index,
        )
        for index, block in enumerate(config.blocks)
    ]


def core_shape(shape: LayerShape) -> CoreShape:
    """Return the core of a whole layer, between the usual projections."""
    return CoreShape(
        choice=shape.block,
        num_heads=shape.block.num_heads,
        key_size=shape.block.head_size,
        value_size=shape.block.head_size,
        queries=shape.grid,
        keys=shape.grid,
    )


class NoOptions(Config):
    """The options of an operator that has none."""


Family = Literal["linear", "quadratic", "local", "none", "other"]
"""linear: every token sees all others at linear cost; quadratic: at quadratic cost; local: windows
and convolutions; none: tokens are not mixed; other: an operator that does not say."""
Formula = Callable[[LayerShape], int]
"""From a layer to a count, in closed form."""
Rule = Callable[[LayerShape], str]
"""From a layer to the rule that it breaks, or to None."""


def fits_anywhere(_: LayerShape) -> str:
    """Return None: the rule of operators that support every layer."""
    return ""


def needs_no_class_token(shape: LayerShape) -> str:
    """Return the rule of operators that mix a grid and do not support a class token."""
    if shape.grid.num_prefix:
        return "must be one that takes a class token, or the model's pooling must be mean"
    return ""


@dataclass(frozen=True, slots=True)
class Imported:
    """A module's maker, written "package.module:name" and imported when it is first called."""

    path: str

    def __call__(self, *arguments: Any) -> "nn.Module":
        """Make the module.

        Raises:
            ConfigError: when nothing of that name can be imported.
        """
        module, _, name = self.path.partition(":")
        try:
            make = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            rule = f"must be importable, as package.module:name ({error})"
            raise ConfigError("build", rule, self.path) from error
        built: nn.Module = make(*arguments)
        return built


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSpec:
    """The part of an operator between its projections, for attentions whose projections stay.

    Built modules map q (batch, head, query, key size), k (batch, head, key, key size) and
    v (batch, head, key, value size), and in training what the masked branch adds (batch, head,
    query, value size) or None, to (batch, head, query, value size).
    """

    build: Callable[[CoreShape], "nn.Module"]
    macs: Callable[[CoreShape], int]
    """Multiply-accumulates per image, without the branch."""
    params: Callable[[CoreShape], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """An operator's entry in the registry; costs are of the whole layer, projections included."""

    summary: str
    """One line for the table of operators."""
    source: str
    """Paper or report of the formula."""
    build: Callable[[LayerShape], "nn.Module"]
    """Makes the module (batch, token, channel) -> (batch, token, channel); `Imported` if the
    module is in a separate file, so that torch is not imported before."""
    uses: frozenset[str]
    """The fields of BlockConfig that change this operator; the others are ignored."""
    macs: Formula
    """Multiply-accumulates per image of the castled layer."""
    params: Formula
    """Parameters of the layer."""
    training_macs: Formula
    """Multiply-accumulates per image of the forward pass while the branch is alive."""
    options: type[Config] = NoOptions
    """Options of this operator only: a config whose every field has a default."""
    check: Rule = fits_anywhere
    """Returns the rule that a layer breaks, or None."""
    core: CoreSpec | None = None
    """The core for attentions whose projections stay; None supports whole layers only."""
    searchable: bool = True
    """Whether spaces may offer it as a choice."""
    family: Family = "other"
    """How its cost grows and what a token sees: the colour of a layer in reports."""
    code: str = ""
    """Two letters that stand for it in reports; by default the first ones of its name."""
    mixes_tokens: bool = True
    """Whether what a token receives depends on others; the contract tests hold it to that."""
    free: frozenset[str] = frozenset()
    """Operations without multiply-adds that only this operator needs, such as `aten::elu`."""
    handles: Mapping[str, Handle] = field(default_factory=dict, hash=False)
    """By name, counts of operations that castling cannot count: from traced inputs and outputs to
    MACs, as in `castling.costs.handles`."""

    def letters(self, name: str) -> str:
        """Return the two letters that stand for the operator of this name: LA, SM."""
        words = [word for word in name.split("_") if word]
        initials = "".join(word[0] for word in words) if len(words) > 1 else name
        return self.code or initials[:2].upper()

    def cost(self, shape: LayerShape) -> Cost:
        """Return the cost of the whole layer, projections included."""
        return Cost(
            macs=self.macs(shape),
            params=self.params(shape),
            training_macs=self.training_macs(shape),
        )


OPERATORS: Registry[OperatorSpec] = Registry("operator", entry_points="castling.operators")


def projection_macs(shape: LayerShape) -> int:
    """Return the MACs of the q, k, v and output projections, 4 N C A with attention width A."""
    return 4 * shape.grid.num_tokens * shape.embed_width * shape.block.attention_width


def projection_params(shape: LayerShape) -> int:
    """Return the parameters of the q, k, v and output projections."""
    width = shape.block.attention_width
    weights = 4 * shape.embed_width * width
    return weights + (3 * width if shape.qkv_bias else 0) + shape.embed_width


def quadratic_macs(shape: LayerShape) -> int:
    """Return the MACs of q k^T and its product with v, 2 N^2 A."""
    return 2 * shape.grid.num_tokens**2 * shape.block.attention_width


def branch_macs(shape: LayerShape) -> int:
    """Return the MACs of a masked softmax branch; none where its mask is empty from the start."""
    mask = shape.block.mask
    alive = mask is not None and mask.threshold(0.0, shape.grid.num_tokens) < 1.0
    return quadratic_macs(shape) if alive else 0


def attention_macs(shape: LayerShape) -> int:
    """Return the MACs of softmax attention, projections included: 4 N C A + 2 N^2 A."""
    return projection_macs(shape) + quadratic_macs(shape)
