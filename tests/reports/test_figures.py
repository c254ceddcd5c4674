import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import reports
from reports.figures import (
    MAX_LABELS,
    Dot,
    FrontFigure,
    ProgressFigure,
    draw_front,
    draw_progress,
    front_figures,
    progress_figure,
    short_size,
    to_png,
)
from reports.frame import tabulate
from reports.front import Volume
from reports.records import Objective, Record


MakeRun = Callable[..., Path]
MakeRecord = Callable[..., Record]
PNG = b"\x89PNG\r\n\x1a\n"


def test_the_front_figure_shows_trained_trials(run: Path) -> None:
    [data] = front_figures(reports.load(run, refused=True))
    assert data == FrontFigure(
        front=(Dot(0, 100_000, 60.0), Dot(1, 200_000, 80.0)),
        others=(Dot(2, 300_000, 70.0),),
        bound=1_000_000,
        hypervolume=Volume(pytest.approx(610 / 900)),
    )
    assert data.title == "2 of 3 trained models on the front, hypervolume 0.678"


def test_an_equal_of_a_member_is_among_the_others(record: MakeRecord) -> None:
    [data] = front_figures(tabulate([record(0, macs=10, top1=0.5), record(1, macs=10, top1=0.5)]))
    assert [dot.trial for dot in data.front] == [0]
    assert [dot.trial for dot in data.others] == [1]


def test_without_attrs_there_is_no_budget_and_no_hypervolume(record: MakeRecord) -> None:
    [data] = front_figures(tabulate([record(0)]))
    assert data.bound is None
    assert data.hypervolume.value is None
    assert data.title == "1 of 1 trained model on the front"


def goals(**ways: str) -> tuple[Objective, ...]:
    return tuple(
        Objective.from_data({"metric": metric, "direction": way}) for metric, way in ways.items()
    )


def test_the_front_figure_shows_the_objectives(make_run: MakeRun) -> None:
    run = make_run(objectives=goals(images_per_s="max", loss="min"), reference={})
    [data] = front_figures(reports.load(run))
    assert (data.x, data.y, data.is_whole, data.bound) == ("loss", "images_per_s", True, None)
    assert data.hypervolume == (
        None,
        "images_per_s has no reference; add --min images_per_s=VALUE",
    )
    assert progress_figure(reports.load(run)).hypervolume == ()
    notes = [text.get_text() for text in draw_front(data).axes[0].texts]
    assert data.hypervolume.words in notes


def test_three_objectives_are_drawn_as_two_figures_without_steps(make_run: MakeRun) -> None:
    run = make_run(objectives=goals(top1="max", macs="min", params="min"))
    figures = front_figures(reports.load(run))
    assert [(data.x, data.y, data.is_whole) for data in figures] == [
        ("macs", "top1", False),
        ("params", "top1", False),
    ]
    assert figures[0].bound == 1_000_000
    assert figures[1].bound is None
    for data in figures:
        steps = [line.get_drawstyle() for line in draw_front(data).axes[0].lines]
        assert "steps-post" not in steps


@pytest.mark.parametrize(
    ("only", "axes"), [({"top1": "max"}, ("macs", "top1")), ({"loss": "min"}, ("loss", "top1"))]
)
def test_an_only_objective_has_one_model_on_its_front(
    make_run: MakeRun, only: dict[str, str], axes: tuple[str, str]
) -> None:
    [data] = front_figures(reports.load(make_run(objectives=goals(**only))))
    assert (data.x, data.y) == axes
    assert len(data.front) == 1
    assert not data.is_whole


def test_the_progress_figure_rises_to_the_hypervolume(run: Path) -> None:
    trials = reports.load(run)
    data = progress_figure(trials)
    assert len(data.hypervolume) == 3
    assert list(data.hypervolume) == sorted(data.hypervolume)
    assert data.title == "3 trained models, hypervolume 0.678"


def test_the_front_is_drawn_as_steps_with_the_budget(run: Path) -> None:
    axes = draw_front(*front_figures(reports.load(run))).axes[0]
    steps = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
    assert list(steps.get_xdata()) == [100_000, 200_000]
    assert list(steps.get_ydata()) == [60.0, 80.0]
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"#0", "#1", "budget 1M"}
    assert any(list(line.get_xdata()) == [1_000_000, 1_000_000] for line in axes.lines)


@pytest.mark.parametrize(("widest", "scale"), [(900_000, "linear"), (2_000_000, "log")])
def test_the_macs_are_logarithmic_over_more_than_a_decade(widest: int, scale: str) -> None:
    data = FrontFigure(
        front=(Dot(0, 100_000, 50.0), Dot(1, widest, 60.0)),
        others=(),
        bound=None,
        hypervolume=Volume(0.5),
    )
    assert draw_front(data).axes[0].get_xscale() == scale


@pytest.mark.parametrize("step", [1, 1_000, 30_000, 1_000_000, 10**9])
def test_ticks_can_be_told_apart(step: int) -> None:
    data = FrontFigure(
        front=tuple(Dot(i, 1_000_000 + i * step, 50.0 + i) for i in range(2)),
        others=(),
        bound=None,
        hypervolume=Volume(0.5),
    )
    figure = draw_front(data)
    figure.canvas.draw()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
    labels = [axes.xaxis.get_major_formatter()(tick) for tick in shown]
    assert len(set(labels)) == len(labels) >= 2


def test_a_crowded_front_goes_without_numbers() -> None:
    data = FrontFigure(
        front=tuple(Dot(i, 1000 * (i + 1), float(i)) for i in range(MAX_LABELS + 1)),
        others=(),
        bound=None,
        hypervolume=Volume(0.5),
    )
    assert not draw_front(data).axes[0].texts


def test_numbers_are_not_written_over_one_another() -> None:
    macs = (40_000, 55_000, 89_000, 92_000, 95_000, 900_000)
    data = FrontFigure(
        front=tuple(Dot(i, each, 90.0 + i / 10 if i else 60.0) for i, each in enumerate(macs)),
        others=(),
        bound=None,
        hypervolume=Volume(0.5),
    )
    figure = draw_front(data)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert 3 <= len(boxes) < 6
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_figures_of_every_run_become_images(run: Path, record: MakeRecord) -> None:
    trials = reports.load(run)
    for shown in (trials, trials.iloc[:0], tabulate([record(0)])):
        assert to_png(draw_front(*front_figures(shown))).startswith(PNG)
        assert to_png(draw_progress(progress_figure(shown))).startswith(PNG)


def test_nothing_trained_is_said(make_run: MakeRun) -> None:
    trials: pd.DataFrame = reports.load(make_run([]))
    assert front_figures(trials)[0].title == "No model is fully trained yet"
    assert progress_figure(trials) == ProgressFigure(hypervolume=())


@pytest.mark.parametrize(
    ("count", "text"),
    [(900_000, "900k"), (1_200_000, "1.2M"), (2e6, "2M"), (1_250_000, "1.25M"), (10, "10")],
)
def test_sizes_on_an_axis_are_short(count: float, text: str) -> None:
    assert short_size(count) == text


def test_drawing_leaves_no_global_state(run: Path) -> None:
    code = (
        "import sys, reports; from reports.figures import *\n"
        "to_png(draw_front(*front_figures(reports.load(sys.argv[1]))))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
