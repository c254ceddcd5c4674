"""The base of all configs: frozen, no unknown fields, a broken rule as one sentence."""

from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from castling.errors import ConfigError


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
