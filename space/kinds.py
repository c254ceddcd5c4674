"""Kinds of domains by name, and domains from the plain data of files."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from castling.config.kinds import kinds_of, misplaced_switch
from castling.errors import ConfigError
from castling.registry import Registry
from space.domain import Choice, Domain, FloatRange, IntRange


DOMAINS: Registry[type[Domain]] = Registry("kind of domain")
"""The kinds of domains that files may name."""
for _kind in (Choice, IntRange, FloatRange):
    DOMAINS.add(_kind.kind, _kind)


def domain_from_data(data: Mapping[str, Any]) -> Domain:
    """Return the domain of plain data; ConfigError where it is none."""
    kind: Any = data.get("kind")
    if kind not in DOMAINS:
        raise ConfigError("domain.kind", f"must be one of {', '.join(DOMAINS)}", kind)
    made: Any = DOMAINS[kind]
    values = {name: value for name, value in data.items() if name != "kind"}
    names = [item.name for item in fields(made)]
    for name, value in values.items():
        if name not in names:
            rule = f"is not a field of a domain of kind {kind} ({', '.join(names)})"
            raise ConfigError(f"domain.{name}", rule, fix=f"remove {name!r}")
        if misplaced_switch(kinds_of(get_type_hints(made)[name]), value) is not None:
            raise ConfigError(f"domain.{name}", "must be a number", value)
    try:
        domain: Domain = TypeAdapter(made).validate_python(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise cause from None
        field = ".".join(map(str, ("domain", *problem["loc"])))
        raise ConfigError(field, problem["msg"], problem["input"]) from None
    return domain
