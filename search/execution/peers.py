"""The processes that train one trial together: the worker of the trial and its peers."""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from castling.config import RunConfig
from castling.errors import UnreachableError
from castling.packages import call
from castling.training.data import TrainingData
from castling.training.execution import Execution, SingleProcess, connected, is_lost_process
from castling.training.loop import train
from castling.training.out_of_memory import is_out_of_memory


END_S = 60.0
"""Seconds that peers have to end after the worker."""
CAUSE_S = 10.0
"""Seconds to wait for what a peer says when it no longer answers."""
SHARE_OF_MEMORY = 0.95
"""The part of its fraction of a GPU's memory that a process may fill; CUDA takes the rest."""
NAME = "castling_peer"
"""Of the peers, as Ray and lists of processes show them."""


class LostPeerError(RuntimeError):
    """Another process of a trial died; all of them can go on from the checkpoint."""


class PeerError(RuntimeError):
    """Another process of a trial raised an error, in its own words."""

    def __init__(self, reason: str, *, out_of_memory: bool) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


@contextmanager
def processes_of_a_trial(
    config: Mapping[str, Any],
    run: RunConfig,
    data: TrainingData,
    checkpoint: Path,
    newest_epoch: int,
) -> Iterator[Execution]:
    """Start the other processes of a trial, and yield the execution of this one, the first.

    Ray holds a bundle of resources for each process; the trial is within the first.

    Args:
        config: of `train_trial`.
        run: the training, with the seed of this repeat.
        data: training and validation images.
        checkpoint: file to go on from.
        newest_epoch: ignore a checkpoint newer than this epoch.

    Raises:
        UnreachableError: when the processes do not reach one another.
        LostPeerError: when one dies.
        PeerError: when one raises an error.
    """
    device = _device(config)
    number = config["processes"]
    if number == 1:
        yield SingleProcess(str(device))
        return
    host, port = get_node_ip_address(), _free_port()
    training: dict[str, Any] = {"run": json.dumps(run.to_data()), "checkpoint": str(checkpoint)}
    training |= {"newest_epoch": newest_epoch, "host": host, "port": port}
    peers = _start({**config, **training}, data)
    try:
        with connected(host, port, 0, number, device=device) as execution:
            yield execution
        ray.wait(peers, num_returns=len(peers), timeout=END_S)
    except Exception as error:
        if is_lost_process(error) or isinstance(error, UnreachableError):
            raise _cause(peers, error) from error
        raise
    finally:
        for peer in peers:
            ray.cancel(peer, force=True)


def train_as_peer(config: Mapping[str, Any], data: TrainingData) -> dict[str, Any] | None:
    """Train a trial as one of its processes, but not the first, which writes and reports.

    Args:
        config: of `train_trial`, with `rank`, `host` and `port` of the first process, `checkpoint`
            and `newest_epoch`.
        data: training and validation images.

    Returns:
        what went wrong, if anything: `reason`, whether `out_of_memory`, and whether another
        process was `lost`.
    """
    torch.set_num_threads(config["threads"])
    rank, number, device = config["rank"], config["processes"], _device(config)
    try:
        with connected(config["host"], config["port"], rank, number, device=device) as execution:
            train(
                RunConfig.from_data(json.loads(config["run"])),
                data,
                checkpoint=Path(config["checkpoint"]),
                newest_epoch=config["newest_epoch"],
                execution=execution,
            )
    except Exception as error:  # noqa: BLE001 - the first process makes a record of it
        return {
            "reason": f"{type(error).__name__}: {error}",
            "out_of_memory": is_out_of_memory(error),
            "lost": is_lost_process(error) or isinstance(error, UnreachableError),
        }
    return None


def limit_memory(gpus: float) -> None:
    """Keep this process within its fraction of a GPU's memory; whole GPUs have no limit."""
    if 0.0 < gpus < 1.0:
        torch.cuda.set_per_process_memory_fraction(gpus * SHARE_OF_MEMORY)


def _device(config: Mapping[str, Any]) -> torch.device:
    """Return the device of a process; Ray shows it its own GPU alone."""
    return torch.device("cuda", 0) if config["gpus"] else torch.device("cpu")


def _start(config: Mapping[str, Any], data: TrainingData) -> list[Any]:
    """Start a task for every process but the first, each in its bundle of the trial."""
    group, shared = get_current_placement_group(), ray.put(data)
    assert group is not None  # Tune made it for the trial
    return [
        ray.remote(call)
        .options(
            name=NAME,
            num_cpus=config["threads"],
            num_gpus=config["gpus"],
            max_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=rank
            ),
        )
        .remote(__name__, train_as_peer.__name__, {**config, "rank": rank}, shared)
        for rank in range(1, config["processes"])
    ]


def _cause(peers: Sequence[Any], error: Exception) -> Exception:
    """Return why a process no longer answers, as far as the peers say."""
    ended, _ = ray.wait(list(peers), num_returns=len(peers), timeout=CAUSE_S)
    for peer in ended:
        try:
            problem = ray.get(peer)
        except RayError:
            return LostPeerError("a process of the trial died")
        if problem is not None and not problem["lost"]:
            return PeerError(problem["reason"], out_of_memory=problem["out_of_memory"])
    return error if isinstance(error, UnreachableError) else LostPeerError(str(error))


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("", 0))
        return int(listening.getsockname()[1])
