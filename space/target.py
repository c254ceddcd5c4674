"""Targets: the config fields that dimensions and settings name by a dotted path."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from castling.config import OPERATOR_FIELDS, Config, Mark, RunConfig
from castling.config.limits import MOST_BLOCKS
from castling.errors import ConfigError
from castling.operators import OPERATORS


EVERY = "*"
"""The step of a path that stands for every block."""


@dataclass(frozen=True, slots=True)
class Target:
    """A field of a RunConfig: `train.epochs`, `model.blocks.*.mask.end`, `model.blocks.2.mlp`.

    `*` stands for every block. `model.depth` is the one target that is no field: the number of
    blocks.
    """

    path: str
    steps: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The names between the dots."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.path.split(".")))

    def __str__(self) -> str:
        return self.path

    @property
    def scope(self) -> str:
        """The section of the field: `block` for one of every block, else model, train or data."""
        of_blocks = len(self.steps) > 3 and self.steps[:3] == ("model", "blocks", EVERY)
        return "block" if of_blocks else self.steps[0]

    @property
    def is_per_block(self) -> bool:
        """Whether the target is a field of every block."""
        return self.scope == "block"

    @property
    def is_depth(self) -> bool:
        """Whether the target is the number of blocks."""
        return self == DEPTH

    @property
    def is_operator(self) -> bool:
        """Whether the target is the blocks' operator."""
        return self == OPERATOR

    @property
    def block_steps(self) -> tuple[str, ...]:
        """The path inside a block, mask and end; empty where the target is no field of blocks."""
        return self.steps[3:] if self.is_per_block else ()

    @property
    def option(self) -> str | None:
        """The name of an operator's option, where the target is one."""
        section, *rest = self.block_steps or ("",)
        return ".".join(rest) if section == "options" else None

    @property
    def of_every_block(self) -> "Target":
        """The same field of every block, where the target is a field of one block."""
        if self.steps[:2] == ("model", "blocks") and len(self.steps) > 3:
            return Target(".".join(("model", "blocks", EVERY, *self.steps[3:])))
        return self

    @property
    def affects_cost(self) -> bool:
        """Whether MACs or parameters of the castled model may depend on the field.

        False where a section or field on the path is declared with `Mark.COSTS_NOTHING`.
        """
        return not _is_marked(self.steps, Mark.COSTS_NOTHING)

    @property
    def is_set_by_data(self) -> bool:
        """Whether the dataset determines the field, so that all trials must share it."""
        return _is_marked(self.steps, Mark.SET_BY_DATA)

    def is_within(self, section: "Target") -> bool:
        """Return whether the target equals another one, or lies in its section."""
        return self.steps[: len(section.steps)] == section.steps

    def at(self, key: str) -> str:
        """Return the path with the `*` replaced: a block's number or a stage's name."""
        return ".".join(("model", "blocks", key, *self.steps[3:]))

    def is_used_by(self, operator: str) -> bool:
        """Return whether the field matters to a block with this operator."""
        if not self.block_steps or operator not in OPERATORS:
            return True  # building the config says what is wrong
        spec = OPERATORS[operator]
        if self.option is not None:
            return self.option in spec.options.model_fields
        return self.block_steps[0] not in OPERATOR_FIELDS or self.block_steps[0] in spec.uses

    def get(self, source: Config | Mapping[str, Any], layer: int = 0) -> Any:
        """Return the value in a config or its plain data.

        Args:
            source: a RunConfig or its data.
            layer: which block's, where the target is a field of every block; the last block
                stands in for those that the model does not have.

        Returns:
            The value; None where the path ends early, as in an absent mask.
        """
        if self.is_depth:
            return len(Target("model.blocks").get(source))
        value: Any = source
        for step in self.steps:
            if isinstance(value, Mapping):
                value = value.get(step)
            elif isinstance(value, Config):
                value = getattr(value, step, None)
            elif isinstance(value, Sequence) and not isinstance(value, str):
                value = value[min(layer, len(value) - 1) if step == EVERY else int(step)]
            else:
                return None
        return value

    def set(self, data: dict[str, Any], value: object) -> None:
        """Put a value into the plain data of a RunConfig, in every block where the path has `*`.

        Raises:
            ConfigError: when the path does not lead to a field. Building the config refuses a
                field that its section lacks.
        """
        if self.is_depth:
            _set_depth(data, value)
        else:
            _put(data, self.steps, value, self.path)

    def set_in_block(self, block: dict[str, Any], value: object) -> None:
        """Put a value into the plain data of one block."""
        _put(block, self.block_steps, value, self.path)


DEPTH = Target("model.depth")
"""The number of blocks."""
OPERATOR = Target("model.blocks.*.operator")
"""Every block's operator."""


def _put(data: Any, steps: Sequence[str], value: object, path: str) -> None:
    for place, step in enumerate(steps):
        if isinstance(data, list) and step == EVERY:
            for index in range(len(data)):
                _put(data, (str(index), *steps[place + 1 :]), value, path)
            return
        try:
            key: Any = int(step) if isinstance(data, list) else step
            if place == len(steps) - 1:
                data[key] = value
            else:
                data = data[key]
        except (LookupError, ValueError, TypeError):
            rule = f"must be a field of the config; {step!r} is not"
            raise ConfigError(path, rule) from None


def _set_depth(data: dict[str, Any], depth: object) -> None:
    """Cut a model's blocks to a number, or repeat the last block."""
    if type(depth) is not int or not 1 <= depth <= MOST_BLOCKS:
        rule = f"must be a whole number from 1 to {MOST_BLOCKS}"
        raise ConfigError(DEPTH.path, rule, depth)
    blocks = data["model"]["blocks"]
    more = [_copy(blocks[-1]) for _ in range(depth - len(blocks))]
    data["model"]["blocks"] = [*blocks[:depth], *more]


def _copy(block: dict[str, Any]) -> dict[str, Any]:
    return {key: dict(value) if isinstance(value, dict) else value for key, value in block.items()}


@cache
def _is_marked(steps: tuple[str, ...], mark: Mark) -> bool:
    """Return whether a field on a path below RunConfig is declared with a mark."""
    sections: list[type[BaseModel]] = [RunConfig]
    for step in steps:
        if step == EVERY or step.isdecimal():
            continue
        fields = [each.model_fields[step] for each in sections if step in each.model_fields]
        if any(mark in each.metadata for each in fields):
            return True
        sections = [section for each in fields for section in _sections(each)]
    return False


def _sections(declared: FieldInfo) -> Iterator[type[BaseModel]]:
    """Yield the configs that a field may hold, or hold several of."""
    waiting = [declared.annotation]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        else:
            waiting += get_args(kind)
