"""The contract tests find parts that are not what they say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from castling.config import DataConfig, ModelConfig
from castling.data.arrays import Split
from castling.data.dataset import SplitName
from castling.data.digits import Digits
from castling.metrics import METRICS, Metric
from castling.operators import OPERATORS
from castling.tasks import TASKS
from castling.testing import DatasetContract, MetricContract, OperatorContract, TaskContract
from search.samplers import SAMPLERS
from search.stoppers import STOPPERS, Standing
from search.testing import SamplerContract, StopperContract


def test_an_operator_that_costs_more_than_it_says() -> None:
    cheap = replace(OPERATORS["softmax"], macs=lambda _: 1, training_macs=lambda _: 1)
    with OPERATORS.temporarily("liar", cheap), pytest.raises(AssertionError):
        OperatorContract().test_closed_form_is_what_is_counted("liar")


def test_an_operator_that_mixes_no_tokens_and_does_not_say_so() -> None:
    apart = replace(OPERATORS["spvit_conv1"], mixes_tokens=True)
    with OPERATORS.temporarily("liar", apart), pytest.raises(AssertionError):
        OperatorContract().test_tokens_mix_as_declared("liar")


def test_a_sampler_that_leaves_the_budget_and_says_that_it_does_not(tmp_path: Path) -> None:
    random = replace(SAMPLERS["random"], stays_within_budget=True)
    with SAMPLERS.temporarily("liar", random), pytest.raises(AssertionError):
        SamplerContract().test_proposes_new_models_within_the_budget("liar", tmp_path)


def test_a_stopper_that_asks_who_came_first() -> None:
    def goes_on(mine: Standing, others: Sequence[Standing]) -> bool:
        return not others or mine.score <= others[0].score

    spec = replace(STOPPERS["median"], goes_on=goes_on)
    with STOPPERS.temporarily("liar", spec), pytest.raises(AssertionError):
        StopperContract().test_the_order_of_the_others_does_not_matter("liar")


class Shaken(Digits):
    """Digits with other noise every time."""

    def open(self, split: SplitName) -> Split:
        whole = super().open(split)
        noise = np.random.default_rng().integers(0, 9, whole.images.shape, dtype=np.uint8)
        return Split(images=whole.images + noise, labels=whole.labels)


def test_a_dataset_that_is_another_every_time() -> None:
    opened = Shaken(DataConfig(name="liar"), ModelConfig())
    with pytest.raises(AssertionError):
        DatasetContract().test_it_reads_the_same_every_time_into_new_arrays(opened)


def test_a_task_that_does_not_measure_what_it_says() -> None:
    more = replace(TASKS["classification"], metrics={"top1": "max", "top5": "max"})
    with TASKS.temporarily("liar", more), pytest.raises(AssertionError):
        TaskContract().test_it_evaluates_every_metric("liar")


def test_a_metric_that_is_another_every_time() -> None:
    metric = Metric(
        name="liar",
        description="a number at random",
        source="cost",
        cost=lambda _: np.random.default_rng().random(),
    )
    with METRICS.temporarily("liar", metric), pytest.raises(AssertionError):
        MetricContract().test_a_cost_is_a_number_known_from_the_config("liar")
