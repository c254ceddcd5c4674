"""What a page shows of one run, read once: its manifest, trials, configs and curves."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from castling.metrics import Direction
from reports.curves import load_curves
from reports.frame import configs_of, frame_of
from reports.layers import Layer, layers_of
from reports.manifest import Manifest
from reports.records import CURVES_FOLDER, STUDY_FILE, TrialState
from reports.study import read_trials
from space.budget import Budget


MOST_CURVES = 240
"""Trials whose curves a page holds: the front first, then the last ones."""
QUIET_SECONDS = 180.0
"""A run whose files did not change for so long is not live."""


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
    def quiet_seconds(self) -> float:
        """How long ago a file of the run changed."""
        places = [self.folder / STUDY_FILE, self.folder / CURVES_FOLDER]
        if (self.folder / CURVES_FOLDER).is_dir():
            with os.scandir(self.folder / CURVES_FOLDER) as entries:
                places += [Path(entry.path) for entry in entries]
        times = [place.stat().st_mtime for place in places if place.exists()]
        return time.time() - max(times, default=0.0)

    @property
    def is_live(self) -> bool:
        """Whether trials are running and files changed within the last minutes."""
        return self.count["running"] > 0 and self.quiet_seconds < QUIET_SECONDS

    @property
    def planned(self) -> int | None:
        """How many trials the recipe asks for, where it says so."""
        planned = self.manifest.recipe.get("trials")
        return planned if isinstance(planned, int) else None

    @property
    def seconds_left(self) -> float | None:
        """The time that the remaining trials take at the pace so far; None where unknown."""
        begun = self.everything["started_at"].min()
        last = self.everything["finished_at"].max()
        ended = sum(self.count[name] for name in ("trained", "stopped", "failed", "replayed"))
        if self.planned is None or not ended or pd.isna(last):
            return None
        pace = (last - begun).total_seconds() / ended
        return float(pace * max(self.planned - ended, 0))
