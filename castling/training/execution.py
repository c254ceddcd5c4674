"""Where a training runs: its device, and the communication of several processes."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from castling.errors import ConfigError, UnreachableError


CONNECT_S = 120.0
"""Seconds that processes have to find one another."""
STALLED_S = 1_800.0
"""Seconds that a process waits for the others within a training; the first may be writing."""
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables of a process that torchrun started, besides LOCAL_RANK."""
QUIET = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Environment, before torch is imported, of processes without torch's remark on every model that
has no unused parameters."""
MOST_PROCESSES = 4096
BACKENDS = ("gloo", "Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
"""Parts of the messages of torch's RuntimeErrors when another process no longer answers."""


class Execution(Protocol):
    """The processes of a training, as one of them sees them."""

    device: torch.device
    """Where model and batches are."""
    is_writer: bool
    """Whether this process writes curve and checkpoints."""
    rank: int
    """Number of this process, from 0."""
    num_processes: int
    """How many train together."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward pass leaves the same gradients in every process.

        They are the mean of those of all processes.
        """

    def shard(self, rows: Tensor) -> Tensor:
        """Return this process's part, along the first axis, of what all processes share.

        The parts of all processes, rank by rank, are the whole; one may be empty.
        """

    def shared(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a function of a batch that evaluates a part in each process.

        Args:
            function: of a batch; the rows of its result are those of the batch.

        Returns:
            a function that gives every process the rows of all of them.
        """

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        """Return the means of values over all processes, each process's with its weight."""

    def send(self, files: Sequence[Path]) -> None:
        """Give all processes the first one's files, which replace theirs."""


class SingleProcess:
    """One process that does everything.

    Args:
        device: of torch; None takes a GPU where there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.is_writer = True
        self.rank, self.num_processes = 0, 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module as it is."""
        return module

    def shard(self, rows: Tensor) -> Tensor:
        """Return all rows."""
        return rows

    def shared(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the function as it is."""
        return function

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:  # noqa: ARG002
        """Return the values as they are."""
        return dict(values)

    def send(self, files: Sequence[Path]) -> None:
        """Do nothing."""


class DistributedProcesses:
    """One of the processes of torch's default process group: gloo on the CPU, nccl on GPUs.

    Batch norms on GPUs normalise by the images of all processes (SyncBatchNorm); on the CPU, for
    which torch has none, each process normalises its part by that part's own statistics.

    Args:
        device: of this process.

    Raises:
        RuntimeError: when there is no process group; see `connected`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.num_processes = dist.get_rank(), dist.get_world_size()
        self.is_writer = self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module as one whose gradients are averaged over the processes."""
        on_gpu = self.device.type == "cuda"
        # weights of one channel have strides that mean the same and are compared all the same
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        if on_gpu:
            convert_sync_batchnorm(module)  # type: ignore[no-untyped-call, unused-ignore]
        return nn.parallel.DistributedDataParallel(
            module,
            device_ids=[self.device] if on_gpu else None,
            find_unused_parameters=True,  # the norm before an operator that skips
        )

    def shard(self, rows: Tensor) -> Tensor:
        """Return this process's rows: parts differ by one row at most, the first are larger."""
        return rows.tensor_split(self.num_processes)[self.rank]

    def shared(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a function that evaluates a part of its batch in each process."""

        def evaluated(batch: Tensor) -> Tensor:
            sizes = [len(part) for part in batch.tensor_split(self.num_processes)]
            own = self.shard(batch)
            if not len(own):  # a model need not take an empty batch
                own = batch[:1]
            result: object = function(own)
            if not isinstance(result, Tensor) or len(result) != len(own):
                return function(batch)  # not row by row
            padded = result.new_zeros((sizes[0], *result.shape[1:]))
            padded[: len(result)] = result
            parts = [torch.empty_like(padded) for _ in sizes]
            dist.all_gather(parts, padded)
            return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

        return evaluated

    def mean(self, values: Mapping[str, float], weight: int) -> dict[str, float]:
        """Return the weighted means over all processes, which must have the same names."""
        names = sorted(values)
        sums = [*(values[name] * weight for name in names), float(weight)]
        total = torch.tensor(sums, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        means = dict(zip(names, (total[:-1] / total[-1]).tolist(), strict=True))
        return {name: means[name] for name in values}

    def send(self, files: Sequence[Path]) -> None:
        """Write the first process's files to the paths of the others; none where it has none."""
        for path in files:
            content = [path.read_bytes() if self.is_writer and path.is_file() else None]
            dist.broadcast_object_list(content, device=self.device)
            if not self.is_writer and content[0] is not None:
                path.write_bytes(content[0])


@contextmanager
def connected(
    host: str,
    port: int,
    rank: int,
    num_processes: int,
    *,
    device: torch.device,
    seconds: float = CONNECT_S,
) -> Iterator[DistributedProcesses]:
    """Connect to the other processes of a training, and yield the execution of this one.

    Args:
        host: where the process of rank 0 is.
        port: at which it listens.
        rank: of this process, from 0.
        num_processes: that train together.
        device: of this process.
        seconds: to wait for the others.

    Raises:
        UnreachableError: when they do not come in time.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store = dist.TCPStore(
            host, port, num_processes, is_master=rank == 0, timeout=timedelta(seconds=seconds)
        )
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=num_processes,
            timeout=timedelta(seconds=STALLED_S),
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnreachableError(f"{host}:{port}", rank, num_processes, seconds, reason) from None
    try:
        yield DistributedProcesses(device)
    finally:
        dist.destroy_process_group()


def is_lost_process(error: BaseException) -> bool:
    """Return whether an error says that another process no longer answers."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in BACKENDS)


def started_by_torchrun() -> bool:
    """Return whether this process is one of several that torchrun started."""
    return all(name in os.environ for name in TORCHRUN)


@contextmanager
def torchrun_processes(device: str | None = None) -> Iterator[DistributedProcesses]:
    """Connect to the other processes that torchrun started; see `connected`.

    Args:
        device: type of device; None takes a GPU of its own where each process has one.

    Raises:
        ConfigError: when torchrun's environment variables are no numbers.
        UnreachableError: when the others do not come in time.
    """
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    local = _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank
    found = torch.cuda.device_count() if device in (None, "cuda") else 0
    if 0 < found <= local:
        rule = f"must be below {found}, the GPUs of this machine"
        raise ConfigError("LOCAL_RANK", rule, local, "start fewer processes")
    own = torch.device("cuda", local) if found else torch.device("cpu")
    # torchrun itself holds the port; its store, not a second one, must answer there
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if found else "gloo",
            init_method="env://",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=STALLED_S),
        )
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).strip().partition("\n")[0]
        raise UnreachableError(place, rank, size, STALLED_S, reason) from None
    if own.type == "cuda":
        torch.cuda.set_device(own)
    try:
        yield DistributedProcesses(own)
    finally:
        dist.destroy_process_group()


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal() or int(text) > MOST_PROCESSES:
        raise ConfigError(name, f"must be a whole number of at most {MOST_PROCESSES}", text)
    return int(text)
