"""Metrics as objects: how they are written, bounded, measured and added by others."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from castling.config import ModelConfig
from castling.errors import ConfigError
from castling.metrics import METRICS, Metric, metric_named, recorded_metrics, register
from castling.testing import MetricContract
from castling.training.hooks import hooked_metrics
from space.budget import Budget
from space.cost_model import CostModel
from space.decode import decode
from space.feasible import feasible_point
from space.presets import SPACES


def widths(low: float = 1.0, **fields: object) -> Metric:
    """A cost of another package: a model's width, as a count."""

    def width(model: ModelConfig) -> float:
        return low * model.embed_width

    given = {"source": "cost", "direction": "min", "dtype": "int64", "cost": width}
    return Metric(name="width", description="embed width", **{**given, **fields})


@pytest.mark.parametrize("name", list(METRICS))
class TestEveryMetric(MetricContract):
    pass


def test_the_ends_of_a_metric_follow_the_direction() -> None:
    top1, macs, rate = METRICS["top1"], METRICS["macs"], METRICS["images_per_s"]
    assert (top1.ideal("max"), top1.limit("max")) == (1.0, 0.0)
    assert (top1.ideal("min"), top1.limit("min")) == (0.0, 1.0)
    assert (macs.ideal("min"), macs.limit("min")) == (0.0, None)
    assert (rate.ideal("max"), rate.limit("max")) == (None, 0.0)
    plain = metric_named("nobody_knows")
    assert (plain.ideal("min"), plain.ideal("max")) == (0.0, None)
    assert (plain.limit("min"), plain.limit("max")) == (None, 0.0)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("macs", "1.2M", 1_200_000),
        ("top1", "90%", 0.9),
        ("top1", 0.9, 0.9),
        ("train_seconds", "1.5k", 1_500.0),
        ("loss", "-1e-3", -0.001),
        ("loss", " 2 ", 2.0),
    ],
)
def test_values_are_read_as_written(name: str, given: object, value: float) -> None:
    assert METRICS[name].parse(given, "--max") == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("macs", given) for given in ("90%", "-1", 1.5, "1e6", None)),
        *(("top1", given) for given in ("1.5", "110%", -0.1, True, None, [1])),
        *(("loss", given) for given in ("90%", "nan", "inf", "1e999", "2 s", "", "9" * 200)),
    ],
)
def test_what_is_no_value_is_one_sentence(name: str, given: object) -> None:
    with pytest.raises(ConfigError, match=r"^--max: must be") as caught:
        METRICS[name].parse(given, "--max")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"evaluate": lambda *_: 1.0},
        {"source": "training"},
        {"direction": None, "best": 0.0},
    ],
)
def test_fields_that_contradict_one_another_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="metric width"):
        widths(**fields)


@pytest.mark.parametrize("name", ["Width", "", "a.b", "0a", "x" * 99, "macs"])
def test_a_name_that_is_taken_or_no_column_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"must match|registered twice"):
        register(Metric(name=name, description="", source="training"))


def test_a_cost_of_another_package_is_computed_and_bounds_a_search() -> None:
    space = SPACES["digits"]()
    with METRICS.temporarily("width", widths()):
        assert [metric.name for metric in recorded_metrics("cost")][-1] == "width"
        costs = CostModel()(space.base.model)
        assert costs["width"] == space.base.model.embed_width
        assert dict(costs)["width"] == costs["width"]
        budget = Budget(max={"width": 24})
        assert feasible_point(space, budget, CostModel())["model.embed_width"] <= 24
        assert not costs.within(Budget(max={"width": costs["width"] - 1}))
        tight = Budget(max={"width": 1})
        with pytest.raises(ConfigError, match=r"budget\.max\.width: must be at least about 16, "):
            feasible_point(space, tight, CostModel())
        model = decode(space, feasible_point(space, budget, CostModel())).model
        assert "width 16" in CostModel()(model).words(budget)


def test_a_cost_to_be_high_has_a_lower_bound() -> None:
    space = SPACES["digits"]()
    with METRICS.temporarily("width", widths(direction="max")):
        found = feasible_point(space, Budget(max_macs=400_000, min={"width": 32}), CostModel())
        assert found["model.embed_width"] >= 32


def broken(*_: object) -> float:
    raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("hook", "rule"),
    [
        (broken, r"must be defined for the model \(RuntimeError: no luck\)"),
        (lambda *_: "much", "must be a number, got 'much'"),
        (lambda *_: 1.5, "must be between 0 and 1, got 1.5"),
        (lambda *_: torch.zeros(2), "must be a number"),
    ],
)
def test_a_hook_that_fails_is_one_sentence(hook: Callable[..., float], rule: str) -> None:
    ends = {"direction": "max", "best": 1.0, "worst": 0.0, "dtype": "float64"}
    with METRICS.temporarily("width", widths(cost=hook, **ends)):
        costs = CostModel()(SPACES["digits"]().base.model)
        with pytest.raises(ConfigError, match=f"metric width: {rule}"):
            costs["width"]
    learnt = widths(source="training", cost=None, evaluate=hook, **ends)
    with (
        METRICS.temporarily("width", learnt),
        pytest.raises(ConfigError, match=f"metric width: {rule}"),
    ):
        hooked_metrics(nn.Identity, list)


def test_hooks_see_the_castled_model_in_eval_mode_without_gradients() -> None:
    seen: list[tuple[bool, bool, list[int]]] = []

    def note(model: nn.Module, batches: list[int]) -> torch.Tensor:
        seen.append((model.training, torch.is_grad_enabled(), [*batches]))
        return torch.tensor(0.5)

    learnt = widths(source="training", cost=None, evaluate=note, dtype="float64")
    assert hooked_metrics(nn.Identity, lambda: [1, 2]) == {}
    with METRICS.temporarily("width", learnt):
        assert hooked_metrics(nn.Identity, lambda: [1, 2]) == {"width": 0.5}
    assert seen == [(False, False, [1, 2])]
