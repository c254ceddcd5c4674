"""Run folders as a search leaves them: a manifest and a real Optuna journal study."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from castling.metrics import METRICS
from reports.manifest import Manifest
from reports.records import (
    CONFIG_ATTRIBUTE,
    RECORD_ATTRIBUTE,
    STUDY_FILE,
    STUDY_NAME,
    Objective,
    Record,
    TrialState,
)
from space.budget import Budget


START = datetime(2026, 11, 3, 12, tzinfo=UTC)
FINISHED = {
    TrialState.TRAINED: optuna.trial.TrialState.COMPLETE,
    TrialState.REPLAYED: optuna.trial.TrialState.COMPLETE,
    TrialState.STOPPED: optuna.trial.TrialState.PRUNED,
    TrialState.REFUSED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}

MakeRecord = Callable[..., Record]
MakeRun = Callable[..., Path]


def make_record(trial: int, state: str = "trained", **changes: Any) -> Record:
    measured = state in {"trained", "stopped", "replayed"}
    metrics: dict[str, float] = {
        "macs": 100_000 * (trial + 1),
        "params": 1_000 * (trial + 1),
        "training_macs": 150_000 * (trial + 1),
    }
    fields: dict[str, Any] = {
        "config_id": f"id{trial}",
        "point": {"model.blocks.10.operator": "softmax", "model.blocks.2.num_heads": 3},
        "epochs_planned": 10,
        "started_at": (START + timedelta(minutes=trial)).isoformat(),
    }
    if measured:
        metrics |= {"top1": 0.5 + 0.01 * trial, "loss": 1.25}
        fields |= {"epochs": 10}
        fields |= {"finished_at": (START + timedelta(minutes=trial + 5)).isoformat()}
    metrics |= changes.pop("metrics", {})
    metrics |= {name: changes.pop(name) for name in [*changes] if name in METRICS}
    return Record(trial=trial, state=TrialState(state), metrics=metrics, **(fields | changes))


EVERY_STATE = (
    make_record(0, top1=0.60),
    make_record(1, top1=0.80, point={"train.learning_rate": 0.001, "model.depth": 4}),
    make_record(2, top1=0.70),
    make_record(3, "stopped", top1=0.95, epochs=4),
    make_record(4, "failed", reason="loss must be finite, got nan at epoch 3, step 12"),
    make_record(5, "replayed", macs=200_000, params=2_000, top1=0.80, replay_of=1),
    make_record(6, "refused", macs=9_000_000, reason="over budget"),
    make_record(7, "running", epochs=2),
)
"""One or more of each state; trials 0 and 1 are the front."""


def fill_study(storage: BaseStorage, records: Sequence[Record]) -> None:
    study = optuna.create_study(
        study_name=STUDY_NAME, storage=storage, directions=["maximize", "minimize"]
    )
    for record in records:
        trial = study.ask()
        trial.set_user_attr(CONFIG_ATTRIBUTE, {"model": {"embed_width": 16 + record.trial}})
        trial.set_user_attr(RECORD_ATTRIBUTE, record.to_data())
        if record.state in FINISHED:
            state = FINISHED[record.state]
            done = state is optuna.trial.TrialState.COMPLETE
            values = [record.value("top1"), record.value("macs")]
            study.tell(trial, values if done else None, state=state)


@pytest.fixture(scope="session", autouse=True)
def _quiet_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="session")
def record() -> MakeRecord:
    """Make a record: trial number and state, then any field or metric."""
    return make_record


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        recipe={"name": "digits", "trials": 8},
        space_fingerprint="5eed",
        budget=Budget(max_macs=1_000_000),
        objectives=(
            Objective(metric="top1", direction="max"),
            Objective(metric="macs", direction="min"),
        ),
        reference={"top1": 0.1, "macs": 1_000_000.0},
        versions={"castling-nas": "0.1.0"},
        created_at=START,
    )


@pytest.fixture
def make_run(tmp_path: Path, manifest: Manifest) -> MakeRun:
    """Make a run folder with a journal study of the given records."""

    def make(records: Sequence[Record] = EVERY_STATE, **changes: Any) -> Path:
        run = tmp_path / "run"
        run.mkdir()
        manifest.replace(**changes).write(run)
        fill_study(JournalStorage(JournalFileBackend(str(run / STUDY_FILE))), records)
        return run

    return make


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    """A run with trials of every state."""
    return make_run()


@pytest.fixture
def fill() -> Callable[[BaseStorage, Sequence[Record]], None]:
    """Write records into a study of the given storage."""
    return fill_study
