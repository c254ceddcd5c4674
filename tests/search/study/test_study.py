import random
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState
from small_space import ONE_OF_ALL

import reports
from castling.model.check import digest, run_config
from castling.model.digest_v1 import digest_v1
from reports.frame import load_config
from reports.manifest import Manifest
from reports.records import Record, TrialState
from search.config import SearchConfig
from search.samplers import SAMPLERS
from search.study.run_folder import new_manifest
from search.study.storage import open_storage, open_study
from search.study.trial import Outcome
from search.testing import SamplerContract
from search.testing.studies import accuracy, exhaust, open_search, trained
from space.budget import Budget
from space.cost import cost


V1_RUN = Path(__file__).parents[2] / "data" / "run_v1" / "finished"
BUDGET = Budget(max_macs=400_000)
TINY = {
    "space": "digits",
    "trials": 50,
    "budget": {"max_macs": "400k"},
    "max_refusals": 20,
    "set": {
        **ONE_OF_ALL,
        "model.blocks.*.mask.shape": "linear",
        "model.blocks.*.mask.start_multiple": 1.0,
        "model.blocks.*.mask.end": 0.5,
    },
}
"""A space of 2 depths x 2 x 2 head sizes and one of 3 depths: twelve different models."""


def config(sampler: str = "random", trials: int = 12, seed: int = 0) -> SearchConfig:
    return SearchConfig(space="digits", budget=BUDGET, trials=trials, sampler=sampler, seed=seed)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if spec.is_slow else ())
        for name, spec in SAMPLERS.items()
    ],
)
class TestEverySampler(SamplerContract):
    pass


def test_what_is_over_budget_or_no_model_is_refused(tmp_path: Path) -> None:
    """So that the contract's claims of what is never refused are no empty ones."""
    starts = [{"target": "model.blocks.*.mask.start", "low": 0.2, "high": 0.7}]
    random = SearchConfig.from_data(config(trials=8).to_data() | {"dimensions": starts})
    records: list[Record] = []
    exhaust(open_search(tmp_path, random, records.append))
    states = [trial.state for trial in open_storage(tmp_path, None).get_all_trials(0)]
    assert OptunaState.FAIL in states
    assert TrialState.REFUSED in {record.state for record in records}


def test_given_points_come_first(tmp_path: Path) -> None:
    points = [{"model.depth": 2, "model.embed_width": 16}, {"model.depth": 4}]
    given = SearchConfig(space="digits", trials=3, points=points)
    first, second, third = exhaust(open_search(tmp_path, given))
    assert (len(first.run.model.blocks), first.run.model.embed_width) == (2, 16)
    assert len(second.run.model.blocks) == 4
    assert third.run == given.build_space().base


def test_early_stopped_and_failed_trials_are_no_trouble(tmp_path: Path) -> None:
    study = open_search(tmp_path, config("pareto", trials=10))
    endings = [
        Outcome(state=TrialState.STOPPED, metrics={"top1": 0.3}, epochs=10),
        Outcome(state=TrialState.FAILED, reason="DivergedError"),
        trained(0.6, epochs=40),
    ]
    for number in range(10):
        proposal = study.propose()
        assert proposal is not None
        study.finish(proposal.trial, endings[number % 3])
    assert len({record.config_id for record in study.records}) == 10


def test_another_seed_proposes_otherwise(tmp_path: Path) -> None:
    digests = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        digests.append([digest(p.run) for p in exhaust(open_search(folder, config(seed=seed)))])
    assert digests[0] != digests[1]


def test_first_proposals_are_the_base_and_the_cheapest(tmp_path: Path) -> None:
    wide = SearchConfig(space="digits", trials=2)
    first, second = exhaust(open_search(tmp_path, wide))
    assert first.run == wide.build_space().base
    assert cost(second.run.model).macs == 38_816


def test_small_space_is_trained_once_over_and_then_ends(tmp_path: Path) -> None:
    small = SearchConfig.from_data(TINY)
    study = open_search(tmp_path, small)
    proposals = exhaust(study)
    assert study.exhausted
    assert len({digest(proposal.run) for proposal in proposals}) == len(proposals) == 12


def test_duplicates_are_replayed_with_the_known_result(tmp_path: Path) -> None:
    small = SearchConfig.from_data(TINY)
    records: list[Record] = []
    exhaust(open_search(tmp_path, small, records.append))
    replayed = [record for record in records if record.state == TrialState.REPLAYED]
    known = {record.trial: record for record in records if record.state == TrialState.TRAINED}
    assert replayed
    for record in replayed:
        assert record.replay_of is not None
        original = known[record.replay_of]
        assert (record.config_id, record.metrics) == (original.config_id, original.metrics)


def test_twin_of_a_running_trial_waits_for_it(tmp_path: Path) -> None:
    small = SearchConfig.from_data(TINY)
    records: dict[int, Record] = {}
    study = open_search(tmp_path, small, lambda record: records.update({record.trial: record}))
    begun = []
    while (proposal := study.propose()) is not None:
        begun.append(proposal)  # nothing finishes, so that repeats are twins
    assert len(begun) == 12
    twins = [
        r for r in records.values() if r.state == TrialState.RUNNING and r.replay_of is not None
    ]
    assert twins
    for proposal in begun:
        study.finish(proposal.trial, trained(0.5))
    assert {records[twin.trial].state for twin in twins} == {TrialState.REPLAYED}
    assert not open_search(tmp_path, small)._running


def test_failed_trial_is_recorded_and_not_repeated(tmp_path: Path) -> None:
    small = SearchConfig.from_data(TINY)
    records: list[Record] = []
    study = open_search(tmp_path, small, records.append)
    proposal = study.propose()
    assert proposal is not None
    study.finish(proposal.trial, Outcome(state=TrialState.FAILED, reason="DivergedError: loss"))
    rest = exhaust(study)
    assert digest(proposal.run) not in {digest(other.run) for other in rest}
    again = open_search(tmp_path, small)
    assert [r.reason for r in again.records if r.state == TrialState.FAILED] == [
        "DivergedError: loss"
    ]


def test_driver_dying_between_recording_and_telling_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_search(tmp_path, config())
    proposal = study.propose()
    assert proposal is not None

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study._strategy, "tell", die)
    with pytest.raises(KeyboardInterrupt):
        study.finish(proposal.trial, trained(0.7))
    again = open_search(tmp_path, config())
    assert [record.value("top1") for record in again.records] == [0.7]
    told = open_storage(tmp_path, None).get_all_trials(0)[proposal.trial]
    assert told.state == OptunaState.COMPLETE
    following = again.propose()
    assert following is not None
    assert following.trial != proposal.trial


def test_driver_dying_before_a_trial_is_recorded_leaves_no_zombie(tmp_path: Path) -> None:
    study = open_search(tmp_path, config())
    study._store.study.ask(dict(study._context.distributions))  # asked, never considered
    exhaust(open_search(tmp_path, config(trials=3)))
    states = [trial.state for trial in open_storage(tmp_path, None).get_all_trials(0)]
    assert OptunaState.RUNNING not in states


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_torn_journal_is_mended_and_every_finished_trial_kept(cut: int, tmp_path: Path) -> None:
    exhaust(open_search(tmp_path, config(trials=4)))
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    last_line = len(whole) - whole.rstrip(b"\n").rfind(b"\n")
    journal.write_bytes(whole[: -min(cut, last_line - 2)])
    again = open_search(tmp_path, config(trials=6))
    assert len([record for record in again.records if record.state == TrialState.TRAINED]) == 4
    exhaust(again)
    assert len(open_search(tmp_path, config(trials=6)).records) == 6


def test_full_disk_stops_the_study_and_loses_nothing(tmp_path: Path) -> None:
    exhaust(open_search(tmp_path, config(trials=3)))
    script = textwrap.dedent(
        """
        import resource, signal, sys
        sys.path[:0] = sys.argv[2:]
        from pathlib import Path
        from test_study import config, exhaust, open_search
        study = open_search(Path(sys.argv[1]), config(trials=9))
        size = (Path(sys.argv[1]) / "study.journal").stat().st_size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 3000, size + 3000))
        try:
            exhaust(study)
        except OSError as error:
            print("stopped", error.errno)
        """
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(here), str(here.parents[1] / "shared")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("stopped")
    again = open_search(tmp_path, config(trials=9))
    assert len(again.records) >= 3
    exhaust(again)
    assert len(open_search(tmp_path, config(trials=9)).records) == 9


def test_a_clock_that_is_set_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        days = 365

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(days=cls.days)

    (usual := tmp_path / "usual").mkdir()
    (odd := tmp_path / "odd").mkdir()
    for folder in (usual, odd):
        new_manifest(config().context(config().build_space()), None).write(folder)
    exhaust(open_search(usual, config()))
    monkeypatch.setattr("search.study.study.datetime", Clock)
    for Clock.days in (365, 0, -365):
        exhaust(open_search(odd, config()), steps=4)
    expected, found = reports.load(usual), reports.load(odd)
    assert found.finished_at.is_monotonic_increasing
    assert (found.finished_at >= found.started_at).all()
    assert list(found.config_id) == list(expected.config_id)
    assert list(found.pareto.progress()) == list(expected.pareto.progress())
    assert len(found) == 12


def test_reports_read_what_the_study_wrote(tmp_path: Path) -> None:
    search_config = config(trials=5)
    space = search_config.build_space()
    new_manifest(search_config.context(space), None).write(tmp_path)
    proposals = exhaust(open_search(tmp_path, search_config))
    trials = reports.load(tmp_path)
    assert list(trials.trial) == [proposal.trial for proposal in proposals]
    assert list(trials.macs) == [cost(proposal.run.model).macs for proposal in proposals]
    number = int(random.Random(0).choice(list(trials.trial)))
    stored = reports.load_config(tmp_path, number)
    assert stored == next(p.run for p in proposals if p.trial == number).to_data()
    assert (reports.load(tmp_path, refused=True).state == "refused").sum() > 0


STOP = Outcome(
    state=TrialState.STOPPED,
    metrics={"top1": 0.99, "top1_branch": 0.99, "loss": 0.1},
    epochs=10,
)


def test_one_objective_of_a_stopped_trial_is_told_as_an_intermediate_value(tmp_path: Path) -> None:
    objectives = [{"metric": "top1", "direction": "max"}]
    data = {"space": "digits", "trials": 8, "sampler": "tpe", "stopper": "asha"}
    study = open_search(tmp_path, SearchConfig.from_data(data | {"objectives": objectives}))
    while (proposal := study.propose()) is not None:
        study.finish(proposal.trial, STOP if proposal.trial else trained(0.5, epochs=40))
    told = open_storage(tmp_path, None).get_all_trials(0)
    assert [trial.state for trial in told] == [OptunaState.COMPLETE, *[OptunaState.PRUNED] * 7]
    assert all(trial.intermediate_values == {10: 0.99} for trial in told[1:])


@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_what_repeats_a_stopped_trial_is_stopped_and_not_replayed_as_trained(
    sampler: str, tmp_path: Path
) -> None:
    small = SearchConfig.from_data(TINY | {"sampler": sampler, "stopper": "pareto"})
    records: dict[int, Record] = {}
    study = open_search(tmp_path, small, lambda record: records.update({record.trial: record}))
    while (proposal := study.propose()) is not None:
        study.finish(proposal.trial, STOP)
    assert study.exhausted
    repeated = [record for record in records.values() if record.replay_of is not None]
    assert repeated
    assert {record.state for record in repeated} == {TrialState.STOPPED}
    assert not open_study(open_storage(tmp_path, None), small.objectives).best_trials


def test_driver_dying_before_a_stopped_trial_is_told_tells_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_config = config("nsga2").replace(stopper="pareto")
    study = open_search(tmp_path, search_config)
    proposal = study.propose()
    assert proposal is not None

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study._store, "tell", die)
    with pytest.raises(KeyboardInterrupt):
        study.finish(proposal.trial, STOP)
    again = open_search(tmp_path, search_config)
    assert [record.state for record in again.records] == [TrialState.STOPPED]
    assert again.num_started == 1
    [told] = [t for t in open_storage(tmp_path, None).get_all_trials(0) if t.state.is_finished()]
    assert told.constraints["stopped"] == 0.75


@pytest.mark.parametrize("sampler", ["pareto", "tpe", "nsga2"])
def test_a_trial_over_a_learnt_bound_is_told_as_infeasible_and_counts_for_nothing(
    sampler: str, tmp_path: Path
) -> None:
    bounds = Budget(max_macs=400_000, max={"train_seconds": 5.0}, min={"top1": 0.4})
    search_config = config(sampler, trials=8).replace(budget=bounds, stopper="pareto")
    new_manifest(search_config.context(search_config.build_space()), None).write(tmp_path)
    study = open_search(tmp_path, search_config)
    while (proposal := study.propose()) is not None:
        outcome = trained(accuracy(proposal), epochs=40)
        seconds = 9.0 if proposal.trial % 2 else 1.0
        study.finish(
            proposal.trial,
            replace(outcome, metrics={**outcome.metrics, "train_seconds": seconds}),
        )
    assert len(study.records) == 8
    told = {trial.number: trial for trial in open_storage(tmp_path, None).get_all_trials(0)}
    complete = [trial for trial in told.values() if trial.state == OptunaState.COMPLETE]
    assert len({tuple(trial.constraints) for trial in complete}) == 1
    for record in study.records:
        excess = told[record.trial].constraints["learnt"]
        assert excess == bounds.violation(record.metrics, "training")
        assert (excess > 0.0) == (record.trial % 2 == 1 or record.value("top1") < 0.4)
    trials = reports.load(tmp_path)
    front = trials.pareto.front()
    assert len(front) > 0
    assert (front.train_seconds <= 5.0).all()
    assert (front.top1 >= 0.4).all()
    assert trials.pareto.best().train_seconds <= 5.0
    assert trials.attrs["reference"]["top1"] == 0.4


def test_a_metric_that_is_not_defined_for_a_model_ends_no_search(tmp_path: Path) -> None:
    goals = [
        {"metric": "top1", "direction": "max"},
        {"metric": "mask_density", "direction": "min"},
    ]
    data = {"trials": 6, "objectives": goals, "budget": {"max_macs": "400k"}}
    study = open_search(tmp_path, SearchConfig.from_data(data))
    exhaust(study)
    assert len(study.records) == 6
    told = open_storage(tmp_path, None).get_all_trials(0)
    assert {trial.state for trial in told} == {OptunaState.FAIL}


def test_a_trial_whose_worker_died_is_proposed_again_as_often_as_asked(tmp_path: Path) -> None:
    study = open_search(tmp_path, config(trials=2).replace(retries=2))
    first = study.propose()
    assert first is not None
    for _ in range(2):
        assert study.again(first.trial)
        assert study.propose() == first
    assert not study.again(first.trial)
    assert not study.again(first.trial, out_of_memory=True)
    study.finish(first.trial, Outcome(state=TrialState.FAILED, reason="died"))
    second = study.propose()
    assert second is not None
    assert second.trial != first.trial
    assert study.again(second.trial)  # every trial has its own


def test_a_trial_that_ran_out_of_memory_goes_on_once_with_divided_batches(
    tmp_path: Path,
) -> None:
    dividing = config(trials=1).replace(double_accumulation=True, retries=0)
    study = open_search(tmp_path, dividing)
    first = study.propose()
    assert first is not None
    assert study.again(first.trial, out_of_memory=True)
    again = open_search(tmp_path, dividing).propose()  # another driver goes on with it
    assert again == study.propose()
    assert again is not None
    assert again.trial == first.trial
    assert again.run.train == first.run.train.replace(accumulation=2)
    assert not study.again(first.trial, out_of_memory=True)
    study.finish(first.trial, trained(0.5))
    [record] = study.records
    assert record.reason == "trained with each batch in 2 parts, for want of memory"


def test_first_points_that_a_crash_cut_short_are_all_tried(tmp_path: Path) -> None:
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = open_search(tmp_path / "whole", config(trials=3))
    wanted = [whole.propose() for _ in range(2)]
    storage = open_storage(tmp_path / "cut", None)
    study = open_study(storage, config().objectives)
    study.enqueue_trial(whole._strategy.first_points()[0])
    resumed = open_search(tmp_path / "cut", config(trials=3))
    assert [resumed.propose() for _ in range(2)] == wanted


def test_records_of_version_1_are_reopened_under_the_digests_of_today(tmp_path: Path) -> None:
    """So that a candidate which was trained then is replayed and not trained again."""
    folder = shutil.copytree(V1_RUN, tmp_path / "run")
    before = reports.load(folder).set_index("trial").config_id
    study = open_search(folder, SearchConfig.from_data(Manifest.read(folder).recipe))
    assert len(study.records) == 8
    for record in study.records:
        run = run_config(load_config(folder, record.trial))
        assert record.config_id == digest(run) != before[record.trial] == digest_v1(run)


def seeds_of_configs(folder: Path) -> dict[int, int]:
    trials = open_storage(folder, None).get_all_trials(0)
    return {
        trial.number: trial.user_attrs["config"]["train"]["seed"]
        for trial in trials
        if "config" in trial.user_attrs
    }


def own_seeds(trials: int, **changes: object) -> SearchConfig:
    data = {**TINY, "trials": trials, **changes}
    return SearchConfig.from_data({**data, "set": {**TINY["set"], "train.seed": "trial"}})


def test_each_trial_has_its_own_seed_and_its_config_holds_it(tmp_path: Path) -> None:
    proposals = exhaust(open_search(tmp_path, own_seeds(12)))
    seeds = [proposal.run.train.seed for proposal in proposals]
    assert len({*seeds}) == len(proposals) == 12
    assert [proposal.seeds for proposal in proposals] == [(seed,) for seed in seeds]
    stored = seeds_of_configs(tmp_path)
    assert [stored[proposal.trial] for proposal in proposals] == seeds


def test_an_equal_candidate_is_replayed_with_the_seed_that_was_trained(tmp_path: Path) -> None:
    records: list[Record] = []
    exhaust(open_search(tmp_path, own_seeds(50), records.append))
    replayed = [record for record in records if record.state == TrialState.REPLAYED]
    assert replayed
    stored = seeds_of_configs(tmp_path)
    assert all(stored[record.trial] == stored[record.replay_of] for record in replayed)


def test_an_interrupted_trial_keeps_its_seeds_whatever_its_config_says_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may die after it stored the median seed and before it recorded the trial."""
    repeated = own_seeds(3, repeats=3)
    study = open_search(tmp_path, repeated)
    proposal = study.propose()
    assert proposal is not None
    assert len({*proposal.seeds}) == 3

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    outcome = replace(trained(0.7), seed=proposal.seeds[2])
    with monkeypatch.context() as place:
        place.setattr(study._store, "set_record", die)
        with pytest.raises(KeyboardInterrupt):
            study.finish(proposal.trial, outcome)
    assert seeds_of_configs(tmp_path)[proposal.trial] == proposal.seeds[2]
    again = open_search(tmp_path, repeated)
    resumed = again.propose()
    assert resumed is not None
    assert (resumed.trial, resumed.seeds) == (proposal.trial, proposal.seeds)
    again.finish(resumed.trial, outcome)
    assert seeds_of_configs(tmp_path)[resumed.trial] == proposal.seeds[2]
    assert len(open_search(tmp_path, repeated).records) == 1
