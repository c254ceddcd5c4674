"""The base of all configs: frozen, no unknown fields, a broken rule as one sentence."""

from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from castling.config.kinds import Kinds, kinds_of, may_be_number, misplaced_switch, untagged
from castling.errors import ConfigError


def _off(value: object) -> object:
    return "off" if value is False else value


OffIsText = BeforeValidator(_off)
"""Reads `off`, which YAML takes for false, as the text."""
Positive = Annotated[int, Field(ge=1)]

C = TypeVar("C", bound="Config")
"""Replaces typing.Self, which run-time type checking does not support on single methods."""


class Mark(Enum):
    """Marks a field for the search, as metadata of its annotation: Annotated[T, mark]."""

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
        """Refuse `epochs: yes`, which pydantic would take for 1, in lists and mappings too."""
        numbers = _fields_of_numbers(cls)
        for name, value in data.items() if isinstance(data, Mapping) else ():
            found = misplaced_switch(numbers[name], value) if name in numbers else None
            if found is not None:
                path = ".".join((name, *map(str, found.path)))
                raise ConfigError(path, "must be a number", found.value)
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


@cache
def _fields_of_numbers(config: type[BaseModel]) -> dict[str, Kinds]:
    """Return the kinds of the fields that are numbers or hold some, by name."""
    kinds = {name: kinds_of(field.annotation) for name, field in config.model_fields.items()}
    return {name: found for name, found in kinds.items() if may_be_number(found)}


def _first_problem(error: ValidationError, config: type[BaseModel]) -> ConfigError:
    """Return the first problem as one sentence; of a union, what each of its types asks for."""
    problems = error.errors(include_url=False)
    steps = {name: kinds_of(field.annotation) for name, field in config.model_fields.items()}
    first = untagged(steps, problems[0]["loc"])
    alike = [problem for problem in problems if untagged(steps, problem["loc"]) == first]
    causes = [problem.get("ctx", {}).get("error") for problem in alike]
    cause = next((one for one in causes if isinstance(one, ConfigError)), None)
    problem = alike[0]
    path = ".".join(repr(step).strip("'") for step in first)  # a key may hold anything
    if cause is not None:
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
    if causes[0] is not None:
        return ConfigError(path, str(causes[0]))
    rules = [one["msg"].replace("Input should", "must") for one in alike]
    rule = " or ".join([rules[0], *(other.removeprefix("must ") for other in rules[1:])])
    return ConfigError(path, rule.replace("Value error, ", ""), problem["input"])


def _fields(config: type[BaseModel]) -> str:
    return ", ".join(config.model_fields)
