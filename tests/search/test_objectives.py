import pytest

from castling.errors import ConfigError
from reports.records import Objective, Record, TrialState
from search.objectives import (
    METRICS,
    check_objectives,
    parse_objectives,
    reference_point,
    values_of,
    worst_values,
)
from space.budget import Budget
from space.presets import SPACES


def goals(*written: str) -> tuple[Objective, ...]:
    return tuple(Objective.from_data(goal) for goal in parse_objectives(written))


RECORD = Record(
    trial=0,
    state=TrialState.REFUSED,
    macs=10,
    params=20,
    training_macs=30,
    config_id="id",
    latency_ms=0.5,
)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_a_field_of_a_record(metric: str) -> None:
    check_objectives(goals(f"{metric}:min"))
    assert isinstance(values_of(RECORD, goals(f"{metric}:min"))[0], float)


@pytest.mark.parametrize("written", [[], ["nope:max"], ["top1:max", "top1:max"]])
def test_what_is_no_set_of_objectives_is_refused(written: list[str]) -> None:
    with pytest.raises(ConfigError, match="objectives"):
        check_objectives(goals(*written))


def test_a_refused_proposal_has_its_costs_and_else_the_worst() -> None:
    aims = goals("top1:max", "macs:min", "train_seconds:min")
    seen = [Record.from_data(RECORD.to_data() | {"train_seconds": t}, "") for t in (3.0, 7.0)]
    assert worst_values(RECORD, aims, seen) == [0.0, 10.0, 7.0]
    assert worst_values(RECORD, aims, []) == [0.0, 10.0, 1.0]


def test_the_reference_is_the_budget_or_the_dearest_point() -> None:
    space = SPACES["digits"]()
    aims = goals("top1:max", "macs:min", "latency_ms:min", "train_seconds:min")
    budget = Budget(max_macs=400_000, max_latency_ms=2.0)
    assert reference_point(space, budget, aims) == {
        "top1": 0.0,
        "macs": 400_000.0,
        "latency_ms": 2.0,
    }
    assert reference_point(space, Budget(), goals("macs:min")) == {"macs": 3_089_024.0}
