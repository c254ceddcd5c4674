"""Starts Ray on this machine, or joins a cluster, and divides its resources among trials."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import ray

from castling.cores import available_cores
from castling.errors import ConfigError
from reports.database import passwords_hidden
from search.config import SearchConfig
from search.execution.machine import local_ray


CLIENT_PORT = 10001
"""Of ray:// addresses that name none, as Ray has it."""
TOKEN_HINT = "set RAY_AUTH_MODE=token where the cluster asks for its token"
"""A plain `ray start` asks for a token, and Ray's message does not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources of the trials."""

    workers: int
    """Trials at a time."""
    processes: int = 1
    """Processes that train a trial together."""
    threads: int = 1
    """CPU cores, and torch threads, of each process."""
    gpus: float = 0.0
    """GPUs of each process; fractions share one, 0 trains on the CPU."""

    def bundles(self) -> list[dict[str, float]]:
        """Return what Ray holds for a trial while it trains: the resources of each process."""
        gpus = {"GPU": self.gpus} if self.gpus else {}
        return [{"CPU": float(self.threads), **gpus} for _ in range(self.processes)]


@contextmanager
def joined(address: str | None, *, at_least: int = 1) -> Iterator[Mapping[str, float]]:
    """Start Ray here, or join a cluster, and yield its resources, such as {"CPU": 2.0}.

    If the caller has started Ray, it is used as it is and stays running.

    Args:
        address: of a cluster; None starts Ray on this machine.
        at_least: CPUs that a Ray started here offers, even where the machine has fewer.

    Raises:
        ClusterError: when Ray does not start here.
        ConfigError: when no cluster answers at the address.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the old one can be silenced
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a dead worker: the record says it
    if address is not None:
        _check_answers(address)
    if ray.is_initialized():  # by the caller, who also ends it
        yield ray.cluster_resources()
        return
    if address is None:
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            with passwords_hidden():  # no worker opens the database
                stack.enter_context(local_ray(max(available_cores(), at_least)))
            yield ray.cluster_resources()
        return
    try:
        with passwords_hidden():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray's kinds differ by version
        ray.shutdown()
        reason = str(error).strip().partition("\n")[0]
        rule = f"must be a Ray cluster that answers ({reason})"
        raise ConfigError("address", rule, address, TOKEN_HINT) from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's remarks on dead workers off the standard output, which is for results."""
    place = ray._private.worker  # noqa: SLF001 - Ray has no public switch
    place._worker_logs_enabled = False  # noqa: SLF001
    try:
        yield
    finally:
        place._worker_logs_enabled = True  # noqa: SLF001


def _check_answers(address: str) -> None:
    """Raise ConfigError when nothing listens at HOST:PORT: Ray would take minutes to say so."""
    client = address.startswith("ray://")
    place = address.removeprefix("ray://")
    if client and ":" not in place:
        place = f"{place}:{CLIENT_PORT}"
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        rule = f"must be a Ray cluster that answers ({error})"
        raise ConfigError("address", rule, address) from None


def machines() -> list[Mapping[str, float]]:
    """Return the resources of each machine that Ray has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def least_cpus(config: SearchConfig) -> int:
    """Return how many CPUs a trial needs at least."""
    return config.cpus_per_trial or config.processes_per_trial


def expected_trainings(config: SearchConfig) -> int:
    """Return how many processes of a search train at a time on a machine like this one."""
    fitting = max(1, available_cores() // least_cpus(config))
    return min(config.workers or fitting, fitting, config.trials) * config.processes_per_trial


def share(nodes: Sequence[Mapping[str, float]], config: SearchConfig) -> Resources:
    """Divide the resources of a cluster among as many trials as fit.

    Args:
        nodes: the resources of each machine, such as {"CPU": 16.0, "GPU": 1.0}.
        config: of the search.

    Raises:
        ConfigError: when not even one fits; Ray would wait for ever.
    """
    processes = config.processes_per_trial
    gpus = _gpus_of_a_process(config, sum(node.get("GPU", 0.0) for node in nodes))
    _check_cpus(config, sum(node.get("CPU", 0.0) for node in nodes))
    threads = _threads(nodes, config, gpus)
    fitting = sum(_num_fitting(node, threads, gpus) for node in nodes) // processes
    if not fitting:
        needs = f"{threads} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        many = "a machine" if processes == 1 else f"machines for {processes} times"
        rule = f"must be less: Ray has not {many} {needs}"
        raise ConfigError("cpus_per_trial", rule, config.cpus_per_trial)
    workers = min(config.workers or fitting, config.trials)
    return Resources(workers=workers, processes=processes, threads=threads, gpus=gpus)


def _gpus_of_a_process(config: SearchConfig, available: float) -> float:
    """Return how many GPUs each process has: one where Ray has GPUs, unless the config says."""
    processes, wanted = config.processes_per_trial, config.gpus_per_trial
    if (wanted or 0.0) > available:
        rule = f"must be at most {available:g}, the GPUs that Ray has"
        raise ConfigError("gpus_per_trial", rule, wanted)
    if wanted is not None:
        return wanted / processes
    if 0.0 < available < processes:
        rule = f"must be at most {available:g}, the GPUs that Ray has"
        fix = "set gpus_per_trial: 0 to train on the CPU"
        raise ConfigError("workers_per_trial", rule, processes, fix)
    return 1.0 if available else 0.0


def _check_cpus(config: SearchConfig, available: float) -> None:
    wanted = least_cpus(config)
    if wanted > available:
        field = "workers_per_trial" if config.cpus_per_trial is None else "cpus_per_trial"
        rule = f"must be at most {available:g}, the CPUs that Ray has"
        raise ConfigError(field, rule, wanted)


def _threads(nodes: Sequence[Mapping[str, float]], config: SearchConfig, gpus: float) -> int:
    """Return the CPU cores of each process: on GPUs, by default, its share of the machine's."""
    if config.cpus_per_trial is not None:
        return config.cpus_per_trial // config.processes_per_trial
    if not gpus:
        return 1
    shares = [node["CPU"] * gpus / node["GPU"] for node in nodes if node.get("GPU", 0.0) >= gpus]
    return max(1, int(min(shares, default=1.0)))


def _num_fitting(node: Mapping[str, float], threads: int, gpus: float) -> int:
    """Return how many processes a machine has room for."""
    by_cpus = int(node.get("CPU", 0.0) // threads)
    return min(by_cpus, int(node.get("GPU", 0.0) / gpus + 1e-9)) if gpus else by_cpus
