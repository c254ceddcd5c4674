"""Times side by side in one process: what the speed benchmarks share."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def medians(
    functions: Mapping[str, Callable[[], object]], *, seconds: float, device: str = "cpu"
) -> dict[str, float]:
    """Return the median milliseconds of functions that take turns, after two calls of each.

    Args:
        functions: what to time, by name.
        seconds: to spend on each function; every one is called at least five times.
        device: cuda waits for the device before and after each call.
    """
    for function in functions.values():
        function()
        function()
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, function in functions.items():
            wait()
            started = time.perf_counter()
            function()
            wait()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(rounds) for name, rounds in times.items()}


def compiled(module: nn.Module) -> nn.Module:
    """Return the module compiled for the one shape that it will see, whole."""
    return torch.compile(module, dynamic=False, fullgraph=True)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of every operation's tensors, in and out; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view and "view" not in func.name():
            tensors = {
                (leaf.data_ptr(), leaf.shape): _size(leaf)
                for leaf in tree_leaves((args, kwargs, result))
                if isinstance(leaf, Tensor)
            }
            self.num_bytes += sum(tensors.values())
        return result


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor, an expanded axis counted once."""
    sides = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return tensor.element_size() * torch.Size(sides).numel()


def bytes_moved(function: Callable[[], object]) -> int:
    """Return the bytes that the eager operations of a call read and write, caches left aside."""
    with _Traffic() as traffic:
        function()
    return traffic.num_bytes


def peak_bytes(function: Callable[[], object], device: str = "cpu") -> int:
    """Return the most memory that a call holds at a time beyond what was held before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
