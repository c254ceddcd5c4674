"""Tasks: importing this package registers every task that has a file in it, and plugins'."""

import importlib
import pkgutil
from importlib.metadata import entry_points

from castling.tasks.task import TASKS, Task, TaskSpec


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
for _plugin in entry_points(group="castling.tasks"):
    _plugin.load()

__all__ = ["TASKS", "Task", "TaskSpec"]
