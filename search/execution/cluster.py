"""Starts Ray on this machine, or joins a cluster, and divides its resources among trials."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import ray

from castling.cores import available_cores
from castling.errors import ConfigError
from reports.database import passwords_hidden
from search.config import SearchConfig
from search.execution.machine import local_ray


TOKEN_HINT = "set RAY_AUTH_MODE=token where the cluster asks for its token"
"""A plain `ray start` asks for a token, and Ray's message does not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The resources of the trials."""

    workers: int
    """Trials at a time."""
    cpus_per_trial: int
    """CPU cores, and torch threads, of each."""
    gpus_per_trial: float
    """GPUs of each; fractions share one, 0 trains on the CPU."""


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


def _check_answers(address: str) -> None:
    """Raise ConfigError when nothing listens at HOST:PORT: Ray would take minutes to say so."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        rule = f"must be a Ray cluster that answers ({error})"
        raise ConfigError("address", rule, address) from None


def expected_trainings(config: SearchConfig) -> int:
    """Return how many trials a search trains at a time on a machine like this one."""
    fitting = max(1, available_cores() // config.cpus_per_trial)
    return min(config.workers or fitting, fitting, config.trials)


def share(cluster: Mapping[str, float], config: SearchConfig) -> Resources:
    """Divide the resources of a cluster among as many trials as fit.

    Raises:
        ConfigError: when not even one fits; Ray would wait for ever.
    """
    for field, kind, wanted in (
        ("cpus_per_trial", "CPU", config.cpus_per_trial),
        ("gpus_per_trial", "GPU", config.gpus_per_trial or 0.0),
    ):
        if wanted > cluster.get(kind, 0.0):
            rule = f"must be at most {cluster.get(kind, 0.0):g}, the {kind}s that Ray has"
            raise ConfigError(field, rule, wanted)
    fitting = max(1, int(cluster.get("CPU", 1)) // config.cpus_per_trial)
    workers = min(config.workers or fitting, config.trials)
    shared = cluster.get("GPU", 0.0) / workers
    return Resources(
        workers=workers,
        cpus_per_trial=config.cpus_per_trial,
        # more than one whole GPU is of no use to a trial; Ray takes fractions below one
        gpus_per_trial=min(1.0, shared)
        if config.gpus_per_trial is None
        else config.gpus_per_trial,
    )
