"""The context of a search for its parts: config, space, cost model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

from castling.errors import ConfigError, InvalidPointError
from reports.records import Objective
from search.objectives import DIRECTIONS, reference_point
from space.budget import Budget
from space.cost_model import CostModel
from space.decode import decode
from space.feasible import default_point, feasible_point
from space.point import Point, Space


if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection

    from search.config import SearchConfig
    from search.samplers.pareto.space_problem import SpaceProblem
    from space.latency import LatencyTable


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """The context of a search, for strategies, samplers, stoppers and the study."""

    config: "SearchConfig"
    space: Space
    """The space of the run's manifest: a later version may build another one from the same
    config."""
    cost_model: CostModel
    feasible_point: Point
    """A point within the budget."""
    latency_table: "LatencyTable | None" = None
    """The latency table of the cost model; None if latency does not count."""

    @classmethod
    def of(cls, config: "SearchConfig", space: Space, table: "LatencyTable | None" = None) -> Self:
        """Return the context of a search.

        Args:
            config: of the search.
            space: as its `build_space` returns it.
            table: as its `latency_table` returns it; None makes one in memory where it is needed.

        Raises:
            InfeasibleBudgetError: when a bound is below the cheapest point's cost.
            ConfigError: when no point is within all bounds.
        """
        table = config.latency_table() if table is None else table
        cost_model = CostModel(table)
        return cls(
            config=config,
            space=space,
            cost_model=cost_model,
            feasible_point=feasible_point(space, config.budget, cost_model),
            latency_table=table,
        )

    @property
    def budget(self) -> Budget:
        """Bounds on metrics."""
        return self.config.budget

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives."""
        return self.config.objectives

    @property
    def seed(self) -> int:
        """The search's."""
        return self.config.seed

    @cached_property
    def distributions(self) -> "Mapping[str, BaseDistribution]":
        """Optuna's distribution of every name of a point."""
        from search.samplers.distributions import distributions

        return distributions(self.space)

    @cached_property
    def problem(self) -> "SpaceProblem":
        """The space under its budget, with a cache of points."""
        from search.samplers.pareto.space_problem import SpaceProblem

        return SpaceProblem(self)

    @property
    def reference(self) -> Mapping[str, float]:
        """The reference value of each objective that has one."""
        return reference_point(self.space, self.budget, self.objectives)

    @property
    def directions(self) -> "list[StudyDirection]":
        """Optuna's directions."""
        return [DIRECTIONS[goal.direction] for goal in self.objectives]


def check_points(points: Sequence[Point], context: SearchContext) -> None:
    """Raise ConfigError unless each point is one of the space, consistent and within the budget.

    A dimension that a point leaves out has the value closest to the base config's.
    """
    for number, given in enumerate(points):
        place = f"points: number {number + 1}"
        try:
            run = decode(context.space, default_point(context.space) | context.space.each(given))
        except InvalidPointError as error:
            rule = f"must be a point of the space: {error.dimension} {error.rule}"
            raise ConfigError(place, rule, error.value) from None
        except ConfigError as error:
            raise ConfigError(place, f"must be a model ({error})") from None
        costs = context.cost_model(run.model)
        if not costs.within(context.budget):
            raise ConfigError(place, "must be within the budget", costs.words(context.budget))
