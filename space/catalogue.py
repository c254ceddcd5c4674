"""The catalogue of dimensions, each with its usual domain."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from castling.config import Config, Positive
from castling.config.limits import MOST_DIMENSIONS
from castling.errors import ConfigError
from castling.operators import OPERATORS
from space.domain import Choice, Domain, FloatRange, IntRange
from space.kinds import domain_from_data
from space.point import Dimension, Tie


def operator_choice() -> Choice:
    """Return the operators that spaces may offer."""
    return Choice(tuple(name for name, spec in OPERATORS.items() if spec.searchable))


def catalogue() -> dict[str, Dimension]:
    """Return every dimension of the catalogue by its target's path, with its usual domain."""
    dimensions = (
        Dimension(
            target="model.blocks.*.operator",
            domain=operator_choice(),
            tie="each",
            why="which layers castle is the question this project answers",
        ),
        Dimension(
            target="model.blocks.*.conv_kernel",
            domain=IntRange(3, 9, 2),
            tie="each",
            why="local context next to the linear kernel's global one",
        ),
        Dimension(
            target="model.blocks.*.conv_form",
            domain=Choice(("tokens", "grid")),
            tie="each",
            why="the release convolves flattened tokens; the grid knows both neighbours",
        ),
        Dimension(
            target="model.blocks.*.conv_filters",
            domain=Choice(("head", "channel")),
            tie="all",
            why="a filter per channel costs parameters but no MACs",
        ),
        Dimension(
            target="model.blocks.*.num_heads",
            domain=IntRange(1, 4),
            tie="each",
            why="with head_size the attention width, the largest term of the core",
        ),
        Dimension(
            target="model.blocks.*.head_size",
            domain=Choice((8, 16, 24, 32)),
            tie="stage",
            why="the core of linear attention costs 2 N A d: large heads are dear",
        ),
        Dimension(
            target="model.blocks.*.mlp_ratio",
            domain=FloatRange(1.0, 4.0),
            tie="each",
            why="the MLP is over half of the MACs at few tokens",
        ),
        Dimension(
            target="model.blocks.*.mlp",
            domain=Choice(("plain", "bidimensional")),
            tie="all",
            why="gates per channel and token bring global context back after the operator",
        ),
        Dimension(
            target="model.blocks.*.drop_path",
            domain=FloatRange(0.0, 0.2),
            tie="all",
            why="regularises deep models",
        ),
        Dimension(
            target="model.blocks.*.mask.shape",
            domain=Choice(("constant", "linear", "cosine", "step")),
            tie="all",
            why="how the training-only branch fades",
        ),
        Dimension(
            target="model.blocks.*.mask.start_multiple",
            domain=FloatRange(0.5, 4.0, log=True),
            tie="all",
            why="how sparse the branch is from the start",
        ),
        Dimension(
            target="model.blocks.*.mask.end",
            domain=FloatRange(0.25, 1.0),
            tie="all",
            why="how long the branch helps",
        ),
        Dimension(
            target="model.blocks.*.mask.l1_weight",
            domain=FloatRange(1e-4, 1e-1, log=True),
            tie="all",
            why="pushes attention below the threshold before it rises",
        ),
        Dimension(target="model.depth", domain=IntRange(2, 4), why="number of blocks"),
        Dimension(
            target="model.embed_width", domain=IntRange(16, 64, 8), why="channels of a token"
        ),
        Dimension(
            target="train.learning_rate",
            domain=FloatRange(1e-3, 1e-2, log=True),
            why="peak rate of AdamW",
        ),
        Dimension(
            target="train.weight_decay",
            domain=FloatRange(1e-3, 2e-1, log=True),
            why="decoupled weight decay",
        ),
    )
    return {dimension.target.path: dimension for dimension in dimensions}


class DimensionConfig(Config):
    """A dimension in a recipe; the catalogue has the domain of one that names none."""

    target: str
    """Dotted config path; `model.blocks.*.FIELD` for a field of every block."""
    choices: Annotated[
        tuple[bool | int | float | str | None, ...] | None, Field(max_length=MOST_DIMENSIONS)
    ] = None
    """The values, without order."""
    low: int | float | None = None
    """Smallest value of a range."""
    high: int | float | None = None
    """Largest value of a range, included."""
    step: Positive | None = None
    """Distance of whole numbers in a range."""
    log: bool = False
    """Whether a range of real numbers is on a logarithmic scale."""
    domain: dict[str, Any] | None = None
    """The values in full, in place of the above: `kind` of domain and its fields."""
    tie: Tie | None = None
    """each block, each stage, or all blocks alike."""

    @model_validator(mode="after")
    def _one_domain(self) -> "DimensionConfig":
        is_range = self.low is not None or self.high is not None
        if self.domain is not None and (self.choices is not None or is_range):
            raise ConfigError("domain", "must not stand beside choices, low and high")
        if self.choices is not None and is_range:
            raise ConfigError("choices", "must not stand beside low and high", list(self.choices))
        if is_range and (self.low is None or self.high is None):
            raise ConfigError("low", "must stand beside high")
        self._domain()  # raises what is wrong with the values
        if self.log and not is_range:
            raise ConfigError("log", "must stand beside low and high")
        if self.step is not None and not self._is_whole:
            raise ConfigError("step", "must stand beside whole low and high, without log")
        return self

    @property
    def is_open(self) -> bool:
        """Whether the values are left to the catalogue."""
        return self._domain() is None

    def dimension(self) -> Dimension:
        """Return the dimension; ConfigError when neither it nor the catalogue has a domain."""
        usual = catalogue().get(self.target)
        domain = self._domain() or (usual.domain if usual else None)
        if domain is None:
            raise ConfigError(self.target, "needs choices, or low and high")
        tie: Literal["each", "stage", "all"] = self.tie or (usual.tie if usual else "all")
        return Dimension(
            target=self.target, domain=domain, tie=tie, why=usual.why if usual else ""
        )

    def _domain(self) -> Domain | None:
        if self.domain is not None:
            return domain_from_data(self.domain)
        if self.choices is not None:
            return Choice(self.choices)
        if self.low is None or self.high is None:
            return None
        if self._is_whole:
            return IntRange(int(self.low), int(self.high), self.step or 1)
        return FloatRange(float(self.low), float(self.high), self.log)

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int) and not self.log
