"""One training on several processes by Ray Train, on this machine or on a cluster.

Ray Train starts the processes, connects them (gloo on the CPU, nccl on GPUs) and starts all of
them anew when one dies; they then go on from the checkpoint in the training's folder.
"""

import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from castling.config import RunConfig
from castling.cores import available_cores
from castling.data.index import INDEX_FILE, IndexFile
from castling.errors import CastlingError, ClusterError, ConfigError, one_line
from castling.files import write_text
from castling.packages import PackageFunction
from castling.tasks import TASKS
from castling.training.callbacks import Curve
from castling.training.data import training_data
from castling.training.execution import STALLED_S, DistributedProcesses, is_lost_process
from castling.training.loop import train
from castling.training.metrics import EpochMetrics
from reports.export import write_model
from reports.masks import TrainingEnd
from search.execution.cluster import joined


LOOK_EVERY_S = 0.5
"""How often the driver looks for new epochs in the curve."""
MOST_RESTARTS = 1_000
"""Deaths of workers in one training; each goes on from the last checkpoint."""
PROBLEM_FILE = "problem.json"
"""What ended a training in a process, until the driver has read it."""


class TrainingEndedError(CastlingError, RuntimeError):
    """A process of a training raised an error, given in its own words."""

    def __init__(self, message: str, *, is_bad_input: bool) -> None:
        super().__init__(message)
        self.message, self.is_bad_input = message, is_bad_input

    def __str__(self) -> str:
        """The sentence of the error."""
        return self.message


def train_on_workers(  # noqa: PLR0913 - a training, its files and its processes
    run: RunConfig,
    out: Path,
    *,
    num_workers: int,
    address: str | None,
    trained_by: str,
    checkpoint: str,
    curve: str,
    on_epoch: Callable[[EpochMetrics], None],
) -> None:
    """Train a run on several processes and write the castled model to its folder.

    Args:
        run: the training.
        out: its folder, which all machines must see under the same path.
        num_workers: processes that train together, each with a GPU where the cluster has one for
            each.
        address: of a cluster; None starts Ray on this machine.
        trained_by: the config, as the metrics name it.
        checkpoint: name of the checkpoint in the folder.
        curve: name of the curve there.
        on_epoch: called after every epoch.

    Raises:
        ConfigError: when no cluster answers at the address, or it has too few CPUs or GPUs.
        ClusterError: when the processes cannot be started, or die again and again.
        CastlingError: what the training raises.
    """
    names = {"checkpoint": checkpoint, "curve": curve}
    with joined(address, at_least=num_workers) as cluster, _scratch() as storage:
        with_gpus = cluster.get("GPU", 0.0) >= num_workers
        if num_workers > cluster.get("CPU", 0.0):
            rule = f"must be at most {cluster.get('CPU', 0.0):g}, the CPUs that Ray has"
            raise ConfigError("--num-workers", rule, num_workers)
        threads = max(1, int(cluster["CPU"] / num_workers)) if address is None else 1
        trainer = TorchTrainer(
            PackageFunction(__name__, _train_here.__name__),
            train_loop_config={
                "run": json.dumps(run.to_data()),
                "out": str(out.absolute()),
                "trained_by": trained_by,
                "threads": min(threads, available_cores()),
                **names,
            },
            torch_config=TorchConfig(
                backend="nccl" if with_gpus else "gloo", timeout_s=int(STALLED_S)
            ),
            scaling_config=ray.train.ScalingConfig(
                num_workers=num_workers,
                use_gpu=with_gpus,
                resources_per_worker={"CPU": 1, **({"GPU": 1} if with_gpus else {})},
            ),
            run_config=ray.train.RunConfig(
                name="training",
                storage_path=storage,
                failure_config=ray.train.FailureConfig(max_failures=MOST_RESTARTS),
            ),
        )
        with _followed(out / curve, on_epoch):
            _fit(trainer, out)


def _fit(trainer: TorchTrainer, out: Path) -> None:
    """Run the trainer; what ended the training in a process is raised here."""
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    (out / PROBLEM_FILE).unlink(missing_ok=True)
    try:
        trainer.fit()
    except Exception as error:  # noqa: BLE001 - Ray's kinds differ by version
        raise _problem(out) or ClusterError(str(error).strip().partition("\n")[0]) from None
    problem = _problem(out)
    if problem is not None:
        raise problem


def _problem(out: Path) -> CastlingError | None:
    """Return the error that a process wrote, if any, and remove it."""
    path = out / PROBLEM_FILE
    if not path.is_file():
        return None
    told = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return TrainingEndedError(told["message"], is_bad_input=told["is_bad_input"])


def _train_here(config: Mapping[str, Any]) -> None:
    """Train as one of the processes; the first one writes curve, checkpoints and the model."""
    torch.set_num_threads(config["threads"])
    out = Path(config["out"])
    if (out / PROBLEM_FILE).exists():  # Ray started the processes anew after an error
        return
    execution = DistributedProcesses(get_device())
    try:
        _train(RunConfig.from_data(json.loads(config["run"])), out, config, execution)
    except Exception as error:
        if not is_lost_process(error):
            message = str(error)
            if not isinstance(error, CastlingError):
                message = f"{type(error).__name__}: {one_line(message, 300)}"
            told = {"message": message, "is_bad_input": getattr(error, "is_bad_input", False)}
            write_text(out / PROBLEM_FILE, json.dumps(told))
        raise


def _train(
    run: RunConfig, out: Path, config: Mapping[str, Any], execution: DistributedProcesses
) -> None:
    index = IndexFile(out / INDEX_FILE)
    data = training_data(run, trainings=execution.num_processes, index=index)
    trained = train(
        run,
        data,
        execution=execution,
        callbacks=[Curve(out / config["curve"])],
        checkpoint=out / config["checkpoint"],
    )
    if execution.is_writer:
        write_model(
            trained.model,
            run,
            data,
            out,
            trained_by=config["trained_by"],
            end=TrainingEnd.of(trained.metrics, TASKS[run.task].primary),
            index=index,
        )


@contextmanager
def _scratch() -> Iterator[str]:
    """Yield a folder for Ray Train's own state, which is of no further use."""
    folder = tempfile.mkdtemp(prefix="castling-train-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _followed(curve: Path, on_epoch: Callable[[EpochMetrics], None]) -> Iterator[None]:
    """Report every epoch that the processes add to a curve; those repeated after a death once."""
    over, seen = threading.Event(), len(_epochs(curve))

    def look() -> None:
        nonlocal seen
        while True:
            last = over.wait(LOOK_EVERY_S)
            epochs = _epochs(curve)
            for metrics in epochs:
                if metrics.epoch > seen:
                    on_epoch(metrics)
                    seen = metrics.epoch
            if last:
                return

    follower = threading.Thread(target=look, daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


def _epochs(curve: Path) -> list[EpochMetrics]:
    """Return the whole lines of a curve."""
    try:
        lines = curve.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [EpochMetrics.from_data(json.loads(line)) for line in lines]
