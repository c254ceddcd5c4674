"""What every sampler must do: propose new models that fit, whatever became of the others."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
from optuna.trial import TrialState as OptunaState

import reports
from castling.model.check import digest
from reports.records import Record, TrialState
from search.config import SearchConfig
from search.samplers import SAMPLERS
from search.study.run_folder import new_manifest
from search.study.storage import open_storage, open_study
from search.study.trial import Outcome, Proposal
from search.testing.studies import accuracy, exhaust, open_search, trained
from space.budget import Budget
from space.cost_model import CostModel


BUDGET = Budget(max_macs=400_000)
NUM_TRIALS = 12
OBJECTIVE_SETS: tuple[dict[str, str], ...] = (
    {"top1": "max"},
    {"macs": "min", "params": "min"},
    {"top1": "max", "train_seconds": "min", "params": "min"},
)
STOPPED = Outcome(
    state=TrialState.STOPPED,
    metrics={"top1": 0.99, "top1_branch": 0.99, "loss": 0.1},
    epochs=10,
)
FAILED = Outcome(state=TrialState.FAILED, reason="DivergedError")


class SamplerContract:
    """Tests of one sampler on the space `digits`; a subclass names it in `sampler`."""

    sampler: ClassVar[str]

    @pytest.fixture
    def name(self) -> str:
        """Return the sampler's name in the registry."""
        return self.sampler

    def test_describes_itself_in_one_line(self, name: str) -> None:
        """The table of samplers has a line for it."""
        assert SAMPLERS[name].summary
        assert "\n" not in SAMPLERS[name].summary

    def test_proposes_new_models_within_the_budget(self, name: str, tmp_path: Path) -> None:
        """As many as are wanted, the same where the search is interrupted between them.

        Whether others were refused is as declared.
        """
        for folder in ("whole", "cut"):
            (tmp_path / folder).mkdir()
        records: list[Record] = []
        config = search_config(name, trials=8)
        proposals = exhaust(open_search(tmp_path / "whole", config, records.append))
        digests = [digest(proposal.run) for proposal in proposals]
        assert len(digests) == len(set(digests)) == 8
        assert all(CostModel()(proposal.run.model).within(BUDGET) for proposal in proposals)
        refused = [record for record in records if record.state == TrialState.REFUSED]
        assert not (refused and SAMPLERS[name].stays_within_budget)
        assert all(record.metrics["macs"] > 400_000 and not record.epochs for record in refused)
        parts = [exhaust(open_search(tmp_path / "cut", config), steps=4) for _ in range(2)]
        assert [digest(proposal.run) for part in parts for proposal in part] == digests

    @pytest.mark.parametrize("goals", OBJECTIVE_SETS, ids="-".join)
    def test_searches_for_any_objectives(
        self, name: str, goals: dict[str, str], tmp_path: Path
    ) -> None:
        """One or several, known before training or not."""
        objectives = [{"metric": metric, "direction": way} for metric, way in goals.items()]
        study = open_search(tmp_path, search_config(name, trials=5, objectives=objectives))
        exhaust(study)
        told = open_storage(tmp_path, None).get_all_trials(0)
        complete = [trial for trial in told if trial.state == OptunaState.COMPLETE]
        assert len(study.records) == 5
        assert all(len(trial.values) == len(goals) for trial in complete)

    def test_passes_over_values_that_contradict_one_another(
        self, name: str, tmp_path: Path
    ) -> None:
        """A mask that starts below its end is no model: the study is told that it failed."""
        start = {"target": "model.blocks.*.mask.start", "low": 0.0, "high": 0.7}
        budget = {"max_macs": "600k"}
        config = search_config(name, trials=8, budget=budget, dimensions=[start])
        assert len(exhaust(open_search(tmp_path, config))) == 8
        states = [trial.state for trial in open_storage(tmp_path, None).get_all_trials(0)]
        assert not (OptunaState.FAIL in states and SAMPLERS[name].stays_within_budget)
        assert OptunaState.RUNNING not in states

    def test_stopped_trials_are_never_among_the_best_nor_asked_for_ever(
        self, name: str, tmp_path: Path
    ) -> None:
        """However accurate they were; with four workers, and trials that fail among them."""
        config = search_config(name, trials=NUM_TRIALS, stopper="pareto", max_refusals=20)
        new_manifest(config.context(config.build_space()), None).write(tmp_path)
        study = open_search(tmp_path, config)
        running: list[Proposal] = []
        endings: dict[int, Outcome] = {}
        while (proposal := study.propose()) is not None:
            running.append(proposal)
            if len(running) == 4:
                done = running.pop(0)
                full = trained(accuracy(done), epochs=40)
                endings[done.trial] = (full, STOPPED, FAILED)[len(endings) % 3]
                study.finish(done.trial, endings[done.trial])
        assert study.num_started == NUM_TRIALS
        stopped = {trial for trial, ending in endings.items() if ending is STOPPED}
        failed = {trial for trial, ending in endings.items() if ending is FAILED}
        told = open_study(open_storage(tmp_path, None), config.objectives)
        best = {trial.number for trial in told.best_trials}
        assert best
        assert not best & (stopped | failed)
        trials = reports.load(tmp_path)
        assert set(trials[trials.state == "stopped"].trial) == stopped
        assert not stopped & set(trials.pareto.front().trial)
        assert (trials[trials.state == "stopped"].fidelity == 0.25).all()


def search_config(sampler: str, trials: int, **fields: Any) -> SearchConfig:
    """Return the config of a search with a sampler."""
    budget = {"max_macs": BUDGET.max_macs}
    settings = {"space": "digits", "budget": budget, "trials": trials, "sampler": sampler}
    return SearchConfig.from_data(settings | fields)
