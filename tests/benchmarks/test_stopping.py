import pandas as pd
import pytest
import stopping
from epochs import epoch_metrics

from reports.frame import tabulate
from reports.records import Record, TrialState
from search.stoppers import STOPPERS, StopperSpec
from search.stoppers.rungs import CostRanges


GOALS = [{"metric": "top1", "direction": "max"}, {"metric": "macs", "direction": "min"}]


def recording(*trials: tuple[int, float, float]) -> stopping.Recording:
    """Return trials of eight epochs: MACs, final accuracy, seconds per epoch."""
    records, curves = [], {}
    for number, (macs, top1, seconds) in enumerate(trials):
        records.append(
            Record(
                trial=number,
                state=TrialState.TRAINED,
                metrics={"macs": macs, "params": macs, "training_macs": macs, "top1": top1},
                config_id=str(number),
                epochs=8,
                epochs_planned=8,
            )
        )
        curves[number] = [
            epoch_metrics(
                epoch, top1=top1 * epoch / 8, top1_branch=top1, train_seconds=seconds * epoch
            )
            for epoch in range(1, 9)
        ]
    frame = tabulate(records)
    frame.attrs.update(objectives=GOALS, reference={"top1": 0.0, "macs": 1000.0}, budget={})
    return stopping.Recording(
        name="made up",
        trials=frame,
        records=records,
        curves=curves,
        ranges=CostRanges.within(1.0, 1000.0, "macs"),
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_without_a_stopper_all_is_trained(workers: int) -> None:
    made = recording((10, 0.5, 1.0), (100, 0.7, 3.0), (20, 0.1, 2.0))
    assert stopping.replay(made, STOPPERS["none"], workers) == {0: 8, 1: 8, 2: 8}


def test_a_dominated_trial_ends_at_its_first_rung() -> None:
    made = recording((5, 0.9, 1.0), (6, 0.5, 1.0), (500, 0.2, 1.0))
    assert stopping.replay(made, STOPPERS["pareto"], 1) == {0: 8, 1: 1, 2: 8}


def test_workers_come_to_a_rung_in_the_order_of_their_clocks() -> None:
    second = StopperSpec(
        summary="only the first at a rung", goes_on=lambda _, others: not others, fractions=(0.5,)
    )
    made = recording((1, 0.5, 5.0), (2, 0.5, 1.0))
    assert stopping.replay(made, second, 1) == {0: 8, 1: 4}
    assert stopping.replay(made, second, 2) == {0: 4, 1: 8}


def test_a_part_of_the_front_is_a_part_of_the_hypervolume() -> None:
    trials = recording((500, 0.5, 1.0), (750, 1.0, 1.0)).trials
    assert stopping.part(trials, pd.Series([True, True]), [0.0, 1000.0]) == 1.0
    kept = stopping.part(trials, pd.Series([True, False]), [0.0, 1000.0])
    assert kept == pytest.approx(0.25 / 0.375)
    assert list(stopping.thirds(recording(*[(9 - n, 0.5, 1.0) for n in range(6)]).trials)) == [
        2, 2, 1, 1, 0, 0,
    ]  # fmt: skip
