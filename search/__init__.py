"""Searches: strategies propose candidates, an executor trains them, a study stands between."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from search.driver import SearchSummary, run

__all__ = ["SearchSummary", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module("search.driver"), name)
