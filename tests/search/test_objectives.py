import pytest

from castling.config import ModelConfig, RunConfig
from castling.errors import ConfigError
from castling.metrics import recorded_metrics
from reports.records import Objective, Record, TrialState
from search.objectives import (
    check_measured,
    check_objectives,
    parse_objectives,
    reference_point,
    values_of,
    worst_values,
)
from space.budget import Budget
from space.cost import cost
from space.decode import decode
from space.feasible import max_cost_point
from space.presets import SPACES


def goals(*written: str) -> tuple[Objective, ...]:
    return tuple(Objective.from_data(goal) for goal in parse_objectives(written))


RECORD = Record(
    trial=0,
    state=TrialState.REFUSED,
    metrics={"macs": 10, "params": 20, "training_macs": 30, "latency_ms": 0.5},
    config_id="id",
)


@pytest.mark.parametrize("metric", [metric.name for metric in recorded_metrics()])
def test_every_metric_can_be_an_objective(metric: str) -> None:
    check_objectives(goals(f"{metric}:min"))
    assert isinstance(values_of(RECORD, goals(f"{metric}:min"))[0], float)


@pytest.mark.parametrize(
    "written", [[], ["nope:max"], ["top1:max", "top1:max"], ["learning_rate:min"]]
)
def test_what_is_no_set_of_objectives_is_refused(written: list[str]) -> None:
    with pytest.raises(ConfigError, match="objectives"):
        check_objectives(goals(*written))


def test_a_refused_proposal_has_its_costs_and_else_the_worst() -> None:
    aims = goals("top1:max", "macs:min", "train_seconds:min")
    seen = [
        RECORD.replace(metrics={**RECORD.metrics, "train_seconds": seconds})
        for seconds in (3.0, 7.0)
    ]
    assert worst_values(RECORD, aims, seen) == [0.0, 10.0, 7.0]
    assert worst_values(RECORD, aims, []) == [0.0, 10.0, 1.0]


def test_the_reference_is_the_budget_or_the_max_cost_point_point() -> None:
    space = SPACES["digits"]()
    aims = goals("top1:max", "macs:min", "latency_ms:min", "train_seconds:min")
    budget = Budget(max_macs=400_000, max_latency_ms=2.0)
    assert reference_point(space, budget, aims) == {
        "top1": 0.0,
        "macs": 400_000.0,
        "latency_ms": 2.0,
    }
    assert reference_point(space, Budget(), goals("macs:min")) == {"macs": 3_089_024.0}


def test_every_metric_that_has_a_worst_value_has_a_reference() -> None:
    space = SPACES["digits"]()
    aims = goals("top1:min", "images_per_s:max", "mask_density:min", "latency_ms:min", "loss:min")
    expected = {"top1": 1.0, "images_per_s": 0.0, "mask_density": 1.0}
    assert reference_point(space, Budget(), aims) == expected
    bounds = Budget(max={"loss": 3, "mask_density": 0.5}, min={"images_per_s": 50})
    bounded = {"images_per_s": 50.0, "mask_density": 0.5, "loss": 3.0}
    assert reference_point(space, bounds, aims) == expected | bounded
    most = decode(space, max_cost_point(space, "training_macs")).model
    found = reference_point(space, Budget(), goals("training_macs:min"))
    assert found == {"training_macs": cost(most).training_macs}


@pytest.mark.parametrize(
    ("metric", "num_classes", "is_measured"),
    [("top5", 3, False), ("top5", 10, True), ("macro_f1", 3, True), ("map", 10, False)],
)
def test_a_metric_that_the_task_does_not_measure_is_no_objective(
    metric: str, num_classes: int, *, is_measured: bool
) -> None:
    run = RunConfig(model=ModelConfig(num_classes=num_classes))
    objectives = [Objective(metric=metric, direction="max")]
    if is_measured:
        check_measured(objectives, Budget(), run)
        return
    with pytest.raises(ConfigError) as caught:
        check_measured(objectives, Budget(), run)
    assert caught.value.field == "objectives"
    assert f"task classification with {num_classes} classes: top1" in str(caught.value)
    with pytest.raises(ConfigError, match=f"budget.min.{metric}"):
        check_measured([], Budget(min={metric: 0.5}), run)
