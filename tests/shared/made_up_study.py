"""Run folders of made-up trials: manifest, study and curves as a search writes them, fast."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState as OptunaState, create_trial

from reports.manifest import Manifest
from reports.records import (
    CONFIG_ATTRIBUTE,
    CURVES_FOLDER,
    RECORD_ATTRIBUTE,
    STUDY_FILE,
    STUDY_NAME,
    Objective,
    Record,
    TrialState,
)
from space.budget import Budget


START = datetime(2026, 11, 3, 12, tzinfo=UTC)
OPERATORS = ("linear_angular", "softmax", "swin", "performer", "skip")
GOALS = (Objective(metric="top1", direction="max"), Objective(metric="macs", direction="min"))
STATES = {
    TrialState.TRAINED: OptunaState.COMPLETE,
    TrialState.REPLAYED: OptunaState.COMPLETE,
    TrialState.STOPPED: OptunaState.PRUNED,
    TrialState.REFUSED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.RUNNING: OptunaState.RUNNING,
}


class Lines(BaseJournalBackend):
    """A journal in memory: its lines are written to a file at once."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def made_up_block(rng: Random) -> dict[str, Any]:
    mask = {
        "shape": rng.choice(["linear", "cosine", "step"]),
        "end": round(rng.uniform(0.2, 0.9), 2),
    }
    return {
        "operator": rng.choice(OPERATORS),
        "conv_kernel": rng.choice([3, 5, 7, 9]),
        "conv_form": rng.choice(["grid", "tokens"]),
        "num_heads": rng.choice([1, 2, 3]),
        "head_size": 8,
        "mlp_ratio": rng.choice([1.0, 2.0, 4.0]),
        "mask": mask,
    }


def made_up_trial(
    number: int, rng: Random, *, layers: int = 4, dimensions: int = 20, **changes: Any
) -> tuple[Record, dict[str, Any]]:
    """A record and its training config; changes replace fields of the record."""
    blocks = [made_up_block(rng) for _ in range(layers)]
    point = {
        f"model.blocks.{layer}.{name}": block[name]
        for layer, block in enumerate(blocks)
        for name in ("operator", "conv_kernel", "mlp_ratio", "num_heads")
    }
    point |= {f"train.number_{place}": rng.random() for place in range(dimensions - len(point))}
    macs = round(30_000 * math.exp(rng.uniform(0, 3.7)))
    linear = sum(block["operator"] == "linear_angular" for block in blocks)
    top1 = 1 - 0.4 / math.log(macs / 10_000) ** 2 - 0.01 * rng.random() + 0.002 * linear - 0.03
    began = START + timedelta(minutes=number)
    fields: dict[str, Any] = {
        "trial": number,
        "state": TrialState.TRAINED,
        "config_id": f"id{number}",
        "metrics": {
            "macs": macs,
            "params": macs // 16,
            "training_macs": 2 * macs,
            "top1": top1,
            "top1_branch": top1,
            "loss": 1.2,
            "train_seconds": 30.0,
        },
        "point": dict(list(point.items())[:dimensions]),
        "epochs": 20,
        "epochs_planned": 20,
        "started_at": began.isoformat(),
        "finished_at": (began + timedelta(minutes=3)).isoformat(),
    }
    return Record(**(fields | changes)), {"model": {"blocks": blocks}, "train": {"epochs": 20}}


def made_up_curve(record: Record, config: Mapping[str, Any]) -> str:
    """The lines of a curve: accuracy rises, masks empty at half of the training."""
    blocks = config.get("model", {}).get("blocks", [])
    masks = sum(block["operator"] == "linear_angular" for block in blocks)
    final = record.value("top1")
    lines = []
    for epoch in range(1, record.epochs + 1):
        gap = 0.02 if epoch < record.epochs_planned / 2 else 0.0
        top1 = final * (1 - math.exp(-0.4 * epoch)) - (gap if masks else 0.0)
        alive = [10.0 ** -(epoch * 0.5 + layer) * bool(gap) for layer in range(masks)]
        metrics = {
            "loss": 1.2,
            "learning_rate": 0.001,
            "images_per_s": 1e4,
            "train_seconds": epoch,
        }
        metrics |= {"top1": top1, "top1_branch": top1 + (gap if masks else 0.0)}
        lines.append(json.dumps({"epoch": epoch, "metrics": metrics, "mask_density": alive}))
    return "\n".join(lines) + "\n"


def write_study(
    run: Path, trials: Sequence[tuple[Record, Mapping[str, Any]]], **changes: Any
) -> Path:
    """Write a run folder; changes replace fields of its manifest."""
    (run / CURVES_FOLDER).mkdir(parents=True)
    fields: dict[str, Any] = {
        "recipe": {"name": "made-up", "trials": len(trials)},
        "space_fingerprint": "5eed",
        "budget": Budget(max_macs=1_000_000),
        "objectives": GOALS,
        "reference": {"top1": 0.1, "macs": 1_200_000.0},
        "versions": {"castling-nas": "0.1.0"},
        "created_at": START,
    }
    Manifest(**(fields | changes)).write(run)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    lines = Lines()
    study = optuna.create_study(
        study_name=STUDY_NAME, storage=JournalStorage(lines), directions=["maximize", "minimize"]
    )
    study.add_trials(
        [
            create_trial(
                state=STATES[record.state],
                values=[record.value("top1"), record.value("macs")]
                if STATES[record.state] is OptunaState.COMPLETE
                else None,
                user_attrs={CONFIG_ATTRIBUTE: dict(config), RECORD_ATTRIBUTE: record.to_data()},
            )
            for record, config in trials
        ]
    )
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines.logs)
    (run / STUDY_FILE).write_text(text)
    for record, config in trials[-300:]:
        if record.epochs and record.state is not TrialState.FAILED:
            path = run / CURVES_FOLDER / f"{record.trial:05d}.jsonl"
            path.write_text(made_up_curve(record, config))
    return run


def made_up_run(run: Path, number: int = 40, *, seed: int = 0, **sizes: int) -> Path:
    """Write a run of made-up trials, some of them stopped and one failed."""
    rng, trials = Random(seed), []
    for trial in range(number):
        changes: dict[str, Any] = {}
        if trial % 7 == 3:
            changes = {"state": TrialState.STOPPED, "epochs": 4}
        if trial == 5:
            counts = {"macs": 400_000, "params": 25_000, "training_macs": 800_000}
            reason = "loss must be finite, got nan at epoch 3, step 12"
            changes = {
                "state": TrialState.FAILED,
                "epochs": 0,
                "metrics": counts,
                "reason": reason,
            }
        trials.append(made_up_trial(trial, rng, **sizes, **changes))
    return write_study(run, trials)
