"""What a page shows of one run, read once: its manifest, trials, configs and curves."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from castling.metrics import Direction
from reports.curves import load_curves, read_curve
from reports.driver import Driver, is_live, read_driver
from reports.frame import configs_of, frame_of
from reports.layers import Layer, layers_of
from reports.manifest import Manifest
from reports.records import TrialState
from reports.study import read_trials
from space.budget import Budget


MOST_CURVES = 240
"""Trials whose curves a page holds: the front first, then the last ones."""
LEAST_DONE = 0.1
"""Trials' worth of epochs after which the time left is estimated."""


class InTraining(NamedTuple):
    """A trial that has not ended."""

    trial: int
    epoch: int
    """The last one that ended."""
    planned: int
    metrics: Mapping[str, float]
    """Of this epoch."""


class Failure(NamedTuple):
    """Failed trials with the same reason."""

    reason: str
    trials: list[int]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as a page shows it."""

    folder: Path
    manifest: Manifest
    everything: pd.DataFrame
    """All proposals, those over budget too."""
    trials: pd.DataFrame
    """Those within the limits of the report."""
    configs: Mapping[int, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path, **limits: Any) -> "Run":
        """Read a run; the limits are those of `.pareto.within`, None for none."""
        manifest = Manifest.read(folder)
        stored = read_trials(folder, manifest)
        everything = frame_of(folder, manifest, stored, refused=True)
        given = {name: bounds for name, bounds in limits.items() if bounds}
        trials = everything.pareto.within(**given) if given else everything
        return cls(
            folder=folder,
            manifest=manifest,
            everything=everything,
            trials=trials,
            configs=configs_of(stored),
        )

    @property
    def name(self) -> str:
        """The recipe and the folder."""
        return f"{self.manifest.recipe.get('name', 'search')}, {self.folder.resolve().name}"

    @cached_property
    def front(self) -> pd.DataFrame:
        """The front, by rising cost."""
        front: pd.DataFrame = self.trials.pareto.front()
        return front

    @property
    def goals(self) -> dict[str, Direction]:
        """The objectives."""
        goals: dict[str, Direction] = self.trials.pareto.objectives
        return goals

    @property
    def quality(self) -> str:
        """The metric of the vertical axis: the first objective to maximise."""
        return next((name for name, way in self.goals.items() if way == "max"), "top1")

    @property
    def cost(self) -> str:
        """The metric of the horizontal axis: the first other objective."""
        return next((name for name in self.goals if name != self.quality), "macs")

    @property
    def budget(self) -> Budget:
        """The run's budget, with the limits of the report."""
        budget: Budget = self.trials.pareto.budget
        return budget

    @cached_property
    def layers(self) -> dict[int, list[Layer]]:
        """The layers of every trial's model."""
        return {number: layers_of(config) for number, config in self.configs.items()}

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The curves of the front and of the last trials, at most MOST_CURVES."""
        order = [*self.front["trial"], *reversed(self.everything["trial"].tolist())]
        return load_curves(self.folder, {*list(dict.fromkeys(order))[:MOST_CURVES]})

    @cached_property
    def count(self) -> Mapping[str, int]:
        """How many proposals are in each state."""
        counts = self.everything["state"].value_counts()
        return {str(state): int(counts.get(str(state), 0)) for state in TrialState}

    @property
    def seconds(self) -> float:
        """The training time of all trials, repeated results left out."""
        fresh = self.everything["replay_of"].isna()
        return float(self.everything.loc[fresh, "train_seconds"].sum())

    @cached_property
    def is_live(self) -> bool:
        """Whether a driver holds the run."""
        return is_live(self.folder)

    @cached_property
    def driver(self) -> Driver | None:
        """The last driver; None of runs of earlier versions."""
        return read_driver(self.folder)

    @property
    def planned(self) -> int | None:
        """How many trials are to be trained, where that is known."""
        if self.driver is not None:
            return self.driver.trials
        planned = self.manifest.recipe.get("trials")
        return planned if isinstance(planned, int) else None

    @property
    def ended(self) -> pd.DataFrame:
        """The trials whose training ended: trained, stopped or failed, repeated results not."""
        states = [str(TrialState.TRAINED), str(TrialState.STOPPED), str(TrialState.FAILED)]
        everything = self.everything
        return everything[everything["state"].isin(states) & everything["replay_of"].isna()]

    @cached_property
    def in_training(self) -> list[InTraining]:
        """The trials that are in training, or were when the driver ended."""
        rows = self.everything
        rows = rows[(rows["state"] == str(TrialState.RUNNING)) & rows["replay_of"].isna()]
        found = []
        for trial, planned in zip(rows["trial"], rows["epochs_planned"], strict=True):
            curve = read_curve(self.folder, int(trial))
            metrics = curve[-1].metrics if curve else {}
            found.append(InTraining(int(trial), len(curve), int(planned), metrics))
        return found

    @cached_property
    def failures(self) -> list[Failure]:
        """The failed trials by reason, in the order in which the reasons first occurred."""
        rows = self.ended[self.ended["state"] == str(TrialState.FAILED)]
        groups = rows.groupby(rows["reason"].fillna("no reason recorded"), sort=False)["trial"]
        return [Failure(str(reason), trials.tolist()) for reason, trials in groups]

    @property
    def seconds_left(self) -> float | None:
        """The time that the remaining trials take at the pace of the driver; None if unknown."""
        if self.driver is None or not self.is_live:
            return None
        begun = sum(one.epoch / one.planned for one in self.in_training if one.planned)
        ended = self.ended["finished_at"]
        done = float((ended >= self.driver.started_at).sum()) + begun
        left = self.driver.trials - len(ended) - begun
        if done < LEAST_DONE:
            return None
        elapsed = (datetime.now(UTC) - self.driver.started_at).total_seconds()
        return max(elapsed * left / done, 0.0)
