import io

from rich.console import Console

from reports.front import front_of
from reports.records import Record, TrialState
from search.commands.display import TerminalDisplay
from search.config import SearchConfig
from space.budget import Budget


def trained(trial: int, top1: float, macs: int) -> Record:
    return Record(
        trial=trial,
        state=TrialState.TRAINED,
        metrics={"macs": macs, "params": 10, "training_macs": macs, "top1": top1},
        config_id=str(trial),
    )


def test_of_equal_models_the_first_proposed_is_on_the_front_whichever_finished_first() -> None:
    records = [trained(5, 0.9, 200), trained(3, 0.9, 200), trained(4, 0.5, 100)]
    assert list(front_of(records, SearchConfig().objectives, Budget()).trial) == [4, 3]


def test_stopped_trials_count_as_done_and_are_not_on_the_front() -> None:
    output = io.StringIO()
    display = TerminalDisplay(Console(file=output, width=200))
    objectives = SearchConfig().objectives
    stopped = trained(1, 0.95, 50).replace(state=TrialState.STOPPED, epochs=2, epochs_planned=8)
    again = stopped.replace(trial=2, replay_of=1)
    display.start("title", 3, [trained(0, 0.9, 100)], objectives, Budget())
    display._started -= 3725.0  # seconds that the trial took
    display.record(stopped)
    display.record(again)
    assert output.getvalue().splitlines() == [
        "title",
        "2/3 trial 1 stopped after 2 of 8 epochs: top1 95.00%, 50 MACs, 1:02:05 left",
    ]
    assert list(front_of([trained(0, 0.9, 100), stopped], objectives, Budget()).trial) == [0]
    page = Console(file=io.StringIO(), width=200)
    page.print(display._page())
    shown = page.file.getvalue()  # type: ignore[attr-defined]
    assert "2/3 trials" in shown
    assert "1 trained, 2 stopped" in shown
