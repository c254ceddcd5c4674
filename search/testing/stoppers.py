"""What every stopper must do: judge by standings alone, in whatever order they come."""

import math
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import ClassVar

import pytest
from hypothesis import given, strategies as st

from castling.files import append_line
from castling.training.metrics import EpochMetrics
from reports.records import Objective, Record, TrialState, curve_path
from search.stoppers import STOPPERS, Rule, Standing
from search.stoppers.rungs import CostRanges, Rungs


RANGES = CostRanges.within(1.0, 1000.0, "macs")
TOP1_MACS = (
    Objective(metric="top1", direction="max"),
    Objective(metric="macs", direction="min"),
)
NUM_TRIALS, NUM_EPOCHS = 6, 4


def standing(top1: float, macs: float) -> Standing:
    """Return how a trial stands that trades off accuracy against MACs."""
    place = sum(macs >= edge for edge in RANGES.edges)
    return Standing(values=(-top1, macs), score=-top1, cost_range=place)


STANDINGS = st.builds(
    standing,
    st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]),
    st.sampled_from([1.0, 5.0, 20.0, 50.0, 200.0, 900.0]),
)
"""Of few values, so that there are ties in each."""
MANY = st.lists(STANDINGS, max_size=24)
MACS = st.integers(1, 999)


class StopperContract:
    """Tests of one stopper; a subclass names it in `stopper`."""

    stopper: ClassVar[str]

    @pytest.fixture
    def name(self) -> str:
        """Return the stopper's name in the registry."""
        return self.stopper

    def test_describes_itself_in_one_line_and_judges_before_the_end(self, name: str) -> None:
        """Rungs are parts of the planned epochs, between 0 and 1 and rising."""
        spec = STOPPERS[name]
        assert spec.summary
        assert "\n" not in spec.summary
        assert all(0.0 < fraction < 1.0 for fraction in spec.fractions)
        assert list(spec.fractions) == sorted(set(spec.fractions))

    def test_the_order_of_the_others_does_not_matter(self, name: str) -> None:
        """So that a search with several workers, resumed, judges as before."""
        rule = STOPPERS[name].goes_on

        @given(mine=STANDINGS, others=MANY, seed=st.integers(0, 99))
        def holds(mine: Standing, others: list[Standing], seed: int) -> None:
            shuffled = Random(seed).sample(others, len(others))
            assert rule(mine, others) == rule(mine, shuffled)

        holds()

    def test_equals_are_judged_alike(self, name: str) -> None:
        """Three equal trials all go on, or none does."""
        rule = STOPPERS[name].goes_on

        @given(arrivals=MANY, twin=STANDINGS)
        def holds(arrivals: list[Standing], twin: Standing) -> None:
            arrivals = [*arrivals, twin, twin, twin]
            answers = {
                rule(mine, arrivals[:index] + arrivals[index + 1 :])
                for index, mine in enumerate(arrivals)
                if mine == twin
            }
            assert len(answers) == 1

        holds()

    def test_the_first_at_a_rung_and_sixty_equal_trials_go_on(self, name: str) -> None:
        """No trial is given up where none is better."""
        rule = STOPPERS[name].goes_on
        assert survivors(rule, [standing(0.1, 900.0)]) == [standing(0.1, 900.0)]
        assert len(survivors(rule, [standing(0.5, 10.0)] * 60)) == 60

    def test_where_nothing_is_measured_nothing_is_stopped(self, name: str) -> None:
        """Costs alone say nothing of a training."""
        costs = [Standing(values=(float(cost),), score=math.nan) for cost in range(9)]
        assert survivors(STOPPERS[name].goes_on, costs) == costs

    def test_a_trial_that_comes_again_is_judged_as_before(self, name: str) -> None:
        """As one does whose worker died after it was judged."""

        @given(data=st.data())
        def holds(data: st.DataObject) -> None:
            tops = data.draw(st.lists(st.sampled_from([0.1, 0.4, 0.5, 0.8]), max_size=8))
            costs = data.draw(st.lists(MACS, min_size=len(tops), max_size=len(tops)))
            rungs = Rungs(STOPPERS[name], TOP1_MACS, RANGES)
            for trial, (top1, macs) in enumerate(zip(tops, costs, strict=True)):
                answer = rungs.goes_on(record(trial, macs), curve(top1))
                assert rungs.goes_on(record(trial, macs), curve(top1)) == answer

        holds()

    def test_rungs_read_back_from_disk_judge_as_those_that_never_stopped(self, name: str) -> None:
        """The last two epochs come again, since their checkpoint was older."""

        @given(data=st.data())
        def holds(data: st.DataObject) -> None:
            tops = st.lists(
                st.sampled_from([0.1, 0.3, 0.5, 0.8]), min_size=NUM_EPOCHS, max_size=NUM_EPOCHS
            )
            steps = [
                (record(trial, macs), whole[: count + 1])
                for trial in range(NUM_TRIALS)
                for macs, whole in [(data.draw(MACS), curve(*data.draw(tops)))]
                for count in range(NUM_EPOCHS)
            ]
            cut = data.draw(st.integers(0, len(steps)))
            expected = judged(Rungs(STOPPERS[name], TOP1_MACS, RANGES), steps)
            again = Rungs(STOPPERS[name], TOP1_MACS, RANGES)
            with TemporaryDirectory() as folder:
                run = Path(folder)
                for who, part in steps[:cut]:
                    append_line(curve_path(run, who.trial), part[-1].to_line())
                again.read_back(run, {who.trial: who for who, _ in steps[:cut]}.values())
            back = max(0, cut - 2)
            assert judged(again, steps[back:]) == expected[back:]

        holds()


def record(trial: int, macs: int = 50, planned: int = 16, **metrics: float) -> Record:
    """Return the record of a trial that runs.

    Args:
        trial: its number.
        macs: of its model.
        planned: epochs of its training.
        metrics: others that are known of it.
    """
    return Record(
        trial=trial,
        state=TrialState.RUNNING,
        metrics={"macs": macs, "params": 10 * macs, "training_macs": macs, **metrics},
        config_id=str(trial),
        epochs_planned=planned,
    )


def curve(*top1: float, loss: float = 1.0) -> list[EpochMetrics]:
    """Return the metrics of epochs of these accuracies."""
    return [
        EpochMetrics(
            epoch=number,
            metrics={
                "loss": loss / number,
                "top1": accuracy,
                "top1_branch": accuracy,
                "learning_rate": 1e-3,
                "images_per_s": 100.0,
                "train_seconds": float(number),
            },
            mask_density=(),
        )
        for number, accuracy in enumerate(top1, start=1)
    ]


def survivors(rule: Rule, arrivals: list[Standing]) -> list[Standing]:
    """Return who goes on when trials come to a rung one after another."""
    return [mine for index, mine in enumerate(arrivals) if rule(mine, arrivals[:index])]


def judged(rungs: Rungs, steps: list[tuple[Record, list[EpochMetrics]]]) -> list[bool]:
    """Return whether trials go on, epoch by epoch."""
    return [rungs.goes_on(who, part) for who, part in steps]
