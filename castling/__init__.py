"""Operators, models and the Castling training scheme; torch is imported on first use only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from castling.model.castle import castle
    from castling.model.settle import settle
    from castling.model.storage import load, save
    from castling.model.vit import build

_HOME = {
    "build": "castling.model.vit",
    "castle": "castling.model.castle",
    "load": "castling.model.storage",
    "save": "castling.model.storage",
    "settle": "castling.model.settle",
}

__all__ = ["build", "castle", "load", "save", "settle"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'castling' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
