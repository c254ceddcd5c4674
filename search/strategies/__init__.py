"""Strategies, which generate the candidates of a search, by name; each is made at first use."""

from typing import TYPE_CHECKING

from search.strategies.contract import STRATEGIES, Strategy, StrategySpec, Turn


if TYPE_CHECKING:
    from search.context import SearchContext
    from search.study.store import TrialStore

__all__ = ["STRATEGIES", "Strategy", "StrategySpec", "Turn"]


def _trials(context: "SearchContext", store: "TrialStore") -> Strategy:
    from search.strategies.trials import Trials

    return Trials(context, store)


STRATEGIES.add(
    "trials",
    StrategySpec(summary="asks the sampler for one candidate after the other", make=_trials),
)
