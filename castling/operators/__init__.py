"""Token mixers: importing this package registers every operator that has a file in it.

Packages of others add theirs through the entry point group `castling.operators`.
"""

import importlib
import pkgutil
from importlib.metadata import entry_points

from castling.operators.spec import OPERATORS, OperatorSpec, TokenGrid


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
for _plugin in entry_points(group="castling.operators"):
    _plugin.load()

__all__ = ["OPERATORS", "OperatorSpec", "TokenGrid"]
