"""Adapters of timm's kinds of attention: importing this package registers every one in it."""

import importlib
import pkgutil


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
