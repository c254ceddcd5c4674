"""A strategy of another package: candidates of its own, with the search's study and its rules."""

from collections.abc import Collection
from pathlib import Path

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import Trial, TrialState as OptunaState
from search_bridge import bridge

from castling.errors import ConfigError
from reports.records import Record, TrialState
from search.config import SearchConfig
from search.context import SearchContext
from search.strategies import STRATEGIES, StrategySpec, Turn
from search.study.asking import ask
from search.study.store import TrialStore
from search.study.study import SearchStudy
from search.study.trial import Outcome
from space.feasible import default_point
from space.point import Point


BATCH_SIZES = (16, 32, 32, 64)
"""What the strategy tries, one after the other; the second 32 repeats the first."""


class Walk:
    """Tries batch sizes in the order of a list, and ends."""

    def __init__(self, context: SearchContext, store: TrialStore) -> None:
        self._context, self._store = context, store

    def first_points(self) -> list[Point]:
        return []

    def ask(self, turn: Turn) -> Trial | None:
        domains = self._context.space.domains
        if turn.unfinished is not None:  # its values were enqueued by the driver that died
            identity = self._store.identity(turn.unfinished)
            return ask(self._store.study, RandomSampler(), domains, identity)
        number = self._store.num_trials
        if number == len(BATCH_SIZES):
            return None
        default = default_point(self._context.space)
        self._store.enqueue({**default, "train.batch_size": BATCH_SIZES[number]})
        return ask(self._store.study, RandomSampler(), domains)

    def tell(self, record: Record, finished: Collection[Record]) -> None:  # noqa: ARG002 - the contract's
        trained = record.state in (TrialState.TRAINED, TrialState.REPLAYED)
        values = [record.value(goal.metric) for goal in self._context.objectives]
        state = None if trained else OptunaState.PRUNED
        self._store.tell(record.trial, values if trained else None, state)


def walked(study: SearchStudy) -> list[int]:
    """Train what is proposed and return its batch sizes."""
    sizes = []
    while (proposal := study.propose()) is not None:
        sizes.append(proposal.run.train.batch_size)
        study.finish(proposal.trial, Outcome(state=TrialState.TRAINED, metrics={"top1": 0.5}))
    return sizes


def test_a_search_tries_what_its_strategy_proposes_and_nothing_twice(tmp_path: Path) -> None:
    spec = StrategySpec(summary="batch sizes in order", make=Walk)
    with STRATEGIES.temporarily("walk", spec):
        dimension = {"target": "train.batch_size", "choices": [16, 32, 64]}
        config = SearchConfig.from_data({"strategy": "walk", "dimensions": [dimension]})
        study = bridge(tmp_path, config).study
        first = study.propose()
        assert first is not None
        assert first.trial == 0
        again = bridge(tmp_path, config).study  # after a crash: the interrupted trial comes first
        assert walked(again) == [16, 32, 64]
        assert again.exhausted
        assert len(again.records) == 3
        assert walked(bridge(tmp_path, config).study) == []


def test_a_strategy_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match="strategy: must be one of trials"):
        SearchConfig(strategy="walk")
