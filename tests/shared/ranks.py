"""Processes that train together over gloo, for tests and benchmarks; each runs this file."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from castling.config import RunConfig
from castling.training.data import training_data
from castling.training.epoch import EpochInProgress
from castling.training.execution import QUIET, SingleProcess, connected
from castling.training.trainer import Callback, Trainer


PROGRAM = "import sys; from ranks import main; main(*sys.argv[1:])"


class Weights(Callback):
    """Copies the weights after a number of steps and ends the training."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self.weights: dict[str, torch.Tensor] = {}

    def on_step(self, trainer: Trainer) -> None:
        self._left -= 1
        if self._left == 0:
            self.weights = {name: w.clone() for name, w in trainer.model.state_dict().items()}


def trained(
    run: RunConfig, execution: Any, steps: int, *, same_draws: bool = False
) -> tuple[dict[str, torch.Tensor], Any]:
    """The weights after some steps, and the metrics of the training.

    With `same_draws` all processes draw the same gates, as one process would.
    """
    noted, seed = Weights(steps), EpochInProgress._seed
    drawing = lambda self, rank, random: seed(self, 0 if same_draws else rank, random)  # noqa: E731
    with torch.random.fork_rng(), patch.object(EpochInProgress, "_seed", drawing):
        trainer = Trainer(run, training_data(run), execution)
        trainer.fit([noted])
        trainer.close()
    return noted.weights, trainer.metrics


def alone(run: RunConfig, steps: int) -> tuple[dict[str, torch.Tensor], Any]:
    return trained(run, SingleProcess("cpu"), steps)


def together(
    runs: Mapping[str, RunConfig], steps: int, folder: Path, processes: int = 2
) -> dict[str, list[tuple[dict[str, torch.Tensor], dict[str, Any]]]]:
    """The weights and metrics of some trainings, in every process."""
    data = {name: run.to_data() for name, run in runs.items()}
    (folder / "runs.json").write_text(json.dumps({"steps": steps, "runs": data}))
    launch(PROGRAM, processes, [str(folder)])
    return {
        name: [torch.load(folder / f"{name}{rank}.pt") for rank in range(processes)]
        for name in runs
    }


def launch(program: str, processes: int, arguments: Sequence[str]) -> None:
    """Run a program in several processes: its arguments are its rank, their number, a port."""
    port = str(free_port())
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        **QUIET,
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), str(processes), port, *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * processes, said
    assert not any(said), said


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def main(rank: str, processes: str, port: str, folder: str) -> None:
    torch.set_num_threads(1)
    work = json.loads((Path(folder) / "runs.json").read_text())
    device = torch.device("cpu")
    with connected("127.0.0.1", int(port), int(rank), int(processes), device=device) as execution:
        for name, data in work["runs"].items():
            weights, metrics = trained(
                RunConfig.from_data(data), execution, work["steps"], same_draws=name == "gates"
            )
            found = metrics.metrics | {"mask_density": metrics.mask_density}
            torch.save((weights, found), Path(folder) / f"{name}{rank}.pt")
