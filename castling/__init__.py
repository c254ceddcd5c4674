"""Operators, models and the Castling training scheme; torch is imported on first use only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from castling.packages import PACKAGES, package


if TYPE_CHECKING:
    from castling.model.backbone import convert_backbone, convert_backbone as castle_backbone
    from castling.model.build import build
    from castling.model.castle import castle, set_progress
    from castling.model.settle import settle
    from castling.model.storage import load, save
    from castling.training.predict import predict

    import reports as reports  # isort: skip
    import search as search  # isort: skip
    import space as space  # isort: skip

_HOME = {
    "build": "castling.model.build",
    "castle": "castling.model.castle",
    "convert_backbone": "castling.model.backbone",
    "set_progress": "castling.model.castle",
    "load": "castling.model.storage",
    "predict": "castling.training.predict",
    "save": "castling.model.storage",
    "settle": "castling.model.settle",
}
_OLD_NAMES = {"castle_backbone": "convert_backbone"}
"""Names of version 0.1.0, and what they are called now."""

__all__ = [
    "build",
    "castle",
    "castle_backbone",
    "convert_backbone",
    "load",
    "predict",
    "reports",
    "save",
    "search",
    "set_progress",
    "settle",
    "space",
]


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return package(name)
    name = _OLD_NAMES.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module 'castling' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
