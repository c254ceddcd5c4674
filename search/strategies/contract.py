"""What a strategy is: where the candidates of a search come from, and the table of strategies."""

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
    """Number of a trial that an earlier driver was asking for when it died, to be asked for again
    and to get the values that it would have had; None asks for a new trial."""
    rejected: int
    """Candidates in a row, up to now, that were over budget or that repeated others."""


class Strategy(Protocol):
    """Where the candidates of a search come from.

    A candidate is a trial of the Optuna study with a value for every name of the space. The
    strategy makes it; the search's study refuses it when it is over budget, answers it from memory
    when an equal one was trained, or gives it to training, and says in the end what became of it.

    After a crash a strategy is made anew over the same study. What it proposes must follow from
    the study, the context and the turn alone, so that a resumed search goes on as if nothing had
    interrupted it.
    """

    def first_points(self) -> "Sequence[Point]":
        """Return the points to try before anything is asked for."""

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
    """One line that says where candidates come from."""
    make: "Callable[[SearchContext, TrialStore], Strategy]"
    """Makes the strategy of a search over the trials that it has so far."""


STRATEGIES: Registry[StrategySpec] = Registry("strategy", entry_points="castling.strategies")
