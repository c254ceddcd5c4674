"""Models are bounded while they are built: parts and numbers are counted as each is added."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from castling.config.limits import MOST_MODULES, MOST_PARAMS
from castling.errors import ConfigError
from castling.untrusted.memory import available_bytes


SMALL = 2**28
"""Bytes that every machine has: free memory is not checked below this size."""


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Refuse a model beyond the limits, or this machine's memory, within a with-block.

    Args:
        what: the field of a config that the model is built from, for the error.

    Raises:
        ConfigError: as soon as there is one part too many; the parts built until then are dropped.
    """
    count = _Count(what)
    with ExitStack() as end:
        for register, hook in (
            (register_module_module_registration_hook, count.add_module),
            (register_module_parameter_registration_hook, count.add_tensor),
            (register_module_buffer_registration_hook, count.add_tensor),
        ):
            end.callback(register(hook).remove)
        yield


class _Count:
    """Counts of the parts and numbers of modules so far."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._modules = self._numbers = self._taken = 0
        self._free: int | None = None

    def add_module(self, _: nn.Module, __: str, module: nn.Module | None) -> None:
        """Count a part of a model."""
        self._modules += module is not None
        if self._modules > MOST_MODULES:
            raise ConfigError(self._what, f"must be a model of at most {MOST_MODULES:,} parts")

    def add_tensor(self, _: nn.Module, __: str, tensor: Tensor | None) -> None:
        """Count a parameter or a buffer; on the meta device it takes no memory."""
        if tensor is None:
            return
        self._numbers += tensor.numel()
        if self._numbers > MOST_PARAMS:
            raise ConfigError(self._what, f"must be a model of at most {MOST_PARAMS:,} numbers")
        if tensor.device.type == "cpu":
            self._taken += tensor.numel() * tensor.element_size()
            if self._taken > SMALL:
                self._check_memory()

    def _check_memory(self) -> None:
        if self._free is None:
            self._free = available_bytes() + SMALL
        if self._taken > self._free:
            rule = f"must be a model for the {self._free / 2**30:.1f} GiB of memory left here"
            raise ConfigError(self._what, rule)
