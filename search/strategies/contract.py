"""The contract of strategies, which generate the candidates of a search, and their registry."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from castling.registry import Registry


if TYPE_CHECKING:
    from optuna.trial import Trial

    from reports.records import Record
    from search.context import SearchContext
    from search.study.store import TrialStore
    from space.point import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The state of a search when a candidate is asked for."""

    unfinished: int | None
    """Number of a trial whose driver died while its parameters were being stored; it is asked for
    again and gets the values that it would have had. None asks for a new trial."""
    rejected: int
    """Number of candidates in a row, up to now, that were over budget or repeated others."""


class Strategy(Protocol):
    """Generates the candidates of a search.

    A candidate is a trial of the Optuna study with a value for every name of the space. The
    strategy makes it. The search's study rejects it if it is over budget, repeats the result of an
    equal trial, or has it trained, and finally reports the result.

    After a crash a strategy is made anew over the same study. What it proposes must follow from
    the study, the context and the turn alone, so that a resumed search goes on as if nothing had
    interrupted it.
    """

    def first_points(self) -> "Sequence[Point]":
        """Return the points to try first."""

    def ask(self, turn: Turn) -> "Trial | None":
        """Return the next candidate; None when there are no more."""

    def tell(self, record: "Record", finished: "Collection[Record]") -> None:
        """End a trial in the Optuna study.

        Args:
            record: the trial's last.
            finished: the records of all trials that were trained, stopped or failed before.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategySpec:
    """A strategy's entry in the registry."""

    summary: str
    """One line for the table of strategies."""
    make: "Callable[[SearchContext, TrialStore], Strategy]"
    """Makes the strategy of a search from its context and the store of its trials."""


STRATEGIES: Registry[StrategySpec] = Registry("strategy", entry_points="castling.strategies")
