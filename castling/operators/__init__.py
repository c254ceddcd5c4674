"""Token mixers: importing this package registers every operator that has a file in it.

Installed distributions add theirs through the entry point group `castling.operators`.
"""

import importlib
import pkgutil

from castling.operators.spec import OPERATORS, OperatorSpec, TokenGrid


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["OPERATORS", "OperatorSpec", "TokenGrid"]
