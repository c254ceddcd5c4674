"""Tasks: importing this package registers every task that has a file in it.

Installed distributions add theirs through the entry point group `castling.tasks`.
"""

import importlib
import pkgutil

from castling.tasks.task import TASKS, Task, TaskSpec


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["TASKS", "Task", "TaskSpec"]
