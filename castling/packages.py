"""The packages that stand on castling, for use as `castling.search`, `.reports` and `.space`."""

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any


PACKAGES = ("space", "reports", "search")
"""Each imports only those before it."""

_HOME = Path(__file__).resolve().parents[1]
_LOCK = RLock()


def package(name: str) -> ModuleType:
    """Import one of `PACKAGES` from where castling lies.

    A plain `import search` finds a `search.py` in the user's folder first, as that folder comes
    first on `sys.path`. The packages below `name` are imported too: its modules, also those that
    it imports later, then find them in `sys.modules`.

    Raises:
        ImportError: when a module of the user's has one of these names in `sys.modules`.
    """
    with _LOCK:
        for needed in PACKAGES[: PACKAGES.index(name) + 1]:
            _import(needed)
    return sys.modules[name]


@dataclass(frozen=True, slots=True)
class PackageFunction:
    """A function of one of `PACKAGES`, imported where it is called.

    A process that receives it pickled, such as a Ray worker, whose `sys.path` begins with the
    user's folder, imports castling's package and not a file of the same name.
    """

    module: str
    """Dotted name, such as `search.worker`."""
    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Import the function and call it.

        Raises:
            ImportError: as `package` does.
        """
        package(self.module.partition(".")[0])
        return getattr(import_module(self.module), self.name)(*args, **kwargs)


def call(module: str, name: str, *args: Any) -> Any:
    """Call a function as `PackageFunction` does, for what takes plain functions only."""
    return PackageFunction(module, name)(*args)


def _import(name: str) -> None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        _check_is_castlings(loaded, name)
        return
    spec = PathFinder.find_spec(name, [str(_HOME)])
    if spec is None or spec.loader is None:
        raise ImportError(f"the package {name} must lie beside castling, in {_HOME}; reinstall it")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _check_is_castlings(module: ModuleType, name: str) -> None:
    file = getattr(module, "__file__", None)
    if file is not None and Path(file).resolve() == _HOME / name / "__init__.py":
        return
    place = file or next(iter(getattr(module, "__path__", [])), "a module without a file")
    raise ImportError(
        f"castling.{name} must be castling's package, but {place} was imported as {name}; "
        f"rename it, or import castling.{name} before it",
        name=name,
    )
