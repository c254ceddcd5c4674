"""Figures of a run: from records to data of a figure, and to matplotlib without a display."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from castling.metrics import metric_named
from castling.sizes import format_size
from reports.front import Volume, relative_hypervolume


if TYPE_CHECKING:  # importing matplotlib takes longer than reading a run
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT, GRID = "#22272e", "#5b6470", "#aab1ba", "#e8ebef"
FRONT, BUDGET = "#1b62b5", "#c2410c"
LABEL_WIDTH, LABEL_HEIGHT = 22.0, 10.0
"""Distance in points between a label and its neighbour."""
OTHER: dict[str, Any] = {"ms": 4.5, "mew": 0, "color": FAINT}
MEMBER: dict[str, Any] = {"ms": 7, "mfc": FRONT, "mec": "white", "mew": 1.2}
MAX_LABELS = 24
"""A front with more members than this is drawn without their trial numbers."""


COST, QUALITY = "macs", "top1"
"""The metric against which a single objective is drawn."""


class Dot(NamedTuple):
    """One fully trained trial."""

    trial: int
    x: float
    y: float
    """Fractions of images are in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontFigure:
    """One metric against another: every trained trial, and those on the run's front."""

    x: str = COST
    y: str = QUALITY
    """The metrics."""
    front: tuple[Dot, ...]
    """By rising x."""
    others: tuple[Dot, ...]
    bound: float | None
    """The budget of x, where the run has one."""
    hypervolume: Volume
    """Of the run's objectives."""
    is_whole: bool = True
    """Whether x, to be low, and y, to be high, are all objectives, so that the front is steps."""

    @property
    def title(self) -> str:
        """How many trials, how many of them on the front, the hypervolume."""
        if not self.front:
            return "No model is fully trained yet"
        number = f"{len(self.front)} of {_models(len(self.front) + len(self.others))} on the front"
        return _with_volume(number, self.hypervolume.value)

    @property
    def description(self) -> str:
        """The metrics of the two axes."""
        return f"{metric_named(self.y).axis} against {metric_named(self.x).axis}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressFigure:
    """Hypervolume after each fully trained trial, in the order in which they finished."""

    hypervolume: tuple[float, ...]
    """As a fraction of what a model with perfect accuracy at no cost would have."""

    @property
    def title(self) -> str:
        """How many trials, and the hypervolume they reached."""
        if not self.hypervolume:
            return "No hypervolume yet"
        return _with_volume(_models(len(self.hypervolume)), self.hypervolume[-1])


def _models(number: int) -> str:
    return f"{number:,} trained model{'' if number == 1 else 's'}"


def _with_volume(text: str, volume: float | None) -> str:
    return text if volume is None else f"{text}, hypervolume {volume:.3f}"


def front_figures(trials: pd.DataFrame) -> list[FrontFigure]:
    """Return the views of a run's front: its first objective to maximise against each other one.

    A single objective is drawn against MACs, or accuracy against it.
    """
    goals = trials.pareto.objectives
    y = next((metric for metric, way in goals.items() if way == "max"), QUALITY)
    against = [metric for metric in goals if metric != y] or [COST]
    trained, front = trials.pareto.trained(), trials.pareto.front()
    rest = trained[~trained["trial"].isin(front["trial"])]
    volume = relative_hypervolume(trials)
    return [
        FrontFigure(
            x=x,
            y=y,
            front=_dots(front.sort_values(x, kind="stable"), x, y),
            others=_dots(rest, x, y),
            bound=_drawn_bound(trials, x),
            hypervolume=volume,
            is_whole=goals == {y: "max", x: "min"},
        )
        for x in against
    ]


def _drawn_bound(trials: pd.DataFrame, metric: str) -> float | None:
    bound = trials.pareto.budget.bound(metric, "max")
    return None if bound is None else bound * metric_named(metric).axis_factor


def _dots(trials: pd.DataFrame, x: str, y: str) -> tuple[Dot, ...]:
    shown = trials.dropna(subset=[x, y])
    columns = zip(shown["trial"], _shown(shown, x), _shown(shown, y), strict=True)
    return tuple(Dot(*row) for row in columns)


def _shown(trials: pd.DataFrame, metric: str) -> list[float]:
    factor = metric_named(metric).axis_factor
    return [factor * value for value in trials[metric].tolist()]


def progress_figure(trials: pd.DataFrame) -> ProgressFigure:
    """Return the data of the progress figure."""
    if relative_hypervolume(trials).value is None:
        return ProgressFigure(hypervolume=())
    volumes = trials.pareto.progress(relative=True)
    return ProgressFigure(hypervolume=tuple(float(volume) for volume in volumes))


def draw_front(data: FrontFigure) -> "Figure":
    """Return the front as a matplotlib figure."""
    figure, axes = _blank(metric_named(data.x).axis, metric_named(data.y).axis, data.title)
    if data.hypervolume.value is None:
        _draw_note(axes, data.hypervolume.words)
    if not data.front:
        axes.set(xticks=[], yticks=[])
        return figure
    axes.plot([dot.x for dot in data.others], [dot.y for dot in data.others], "o", **OTHER)
    if data.is_whole:
        _draw_staircase(axes, data)
    axes.plot([dot.x for dot in data.front], [dot.y for dot in data.front], "o", **MEMBER)
    bounds = [dot.x for dot in (*data.front, *data.others)]
    if data.bound is not None:
        _draw_budget(axes, data.bound, _tick_text(data.x, data.bound))
        bounds.append(data.bound)
    _scale_x(axes, data.x, min(bounds), max(bounds))
    _draw_labels(axes, data)
    return figure


def draw_progress(data: ProgressFigure) -> "Figure":
    """Return the progress as a matplotlib figure."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _blank("trained models", "hypervolume (fraction)", data.title)
    numbers = range(1, len(data.hypervolume) + 1)
    axes.plot(numbers, data.hypervolume, drawstyle="steps-post", color=FRONT, lw=1.8)
    axes.plot(numbers[-1:], data.hypervolume[-1:], "o", ms=6, color=FRONT)
    if not data.hypervolume:
        axes.set(xticks=[], yticks=[])
        return figure
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def to_png(figure: "Figure") -> bytes:
    """Return a figure as a PNG image."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160, facecolor="white")
    return stream.getvalue()


def _blank(x: str, y: str, title: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=12)
    axes.margins(x=0.07, y=0.08)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=MUTED, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    return figure, axes


def _draw_note(axes: "Axes", text: str) -> None:
    """Write a line in small print under the title."""
    axes.annotate(
        text,
        (0.0, 1.0),
        xycoords="axes fraction",
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        parse_math=False,
    )


def _draw_budget(axes: "Axes", bound: float, text: str) -> None:
    axes.axvline(bound, color=BUDGET, lw=1.2, ls=(0, (5, 3)))
    axes.annotate(
        f"budget {text}",
        (bound, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=BUDGET,
    )


def _draw_staircase(axes: "Axes", data: FrontFigure) -> None:
    x, y = [dot.x for dot in data.front], [dot.y for dot in data.front]
    end = max(data.bound or 0, *(dot.x for dot in (*data.front, *data.others)))
    axes.plot([x[-1], end], [y[-1]] * 2, color=FRONT, lw=1.6, alpha=0.35)
    axes.plot(x, y, drawstyle="steps-post", color=FRONT, lw=1.6)


def _draw_labels(axes: "Axes", data: FrontFigure) -> None:
    """Write the trials' numbers next to the front, the most expensive first, without overlaps."""
    if len(data.front) > MAX_LABELS:
        return
    points_per_pixel = 72.0 / axes.figure.get_dpi()
    written: list[tuple[float, float]] = []
    for dot in reversed(data.front):
        x, y = axes.transData.transform((dot.x, dot.y)) * points_per_pixel
        if any(
            abs(x - left) < LABEL_WIDTH and abs(y - low) < LABEL_HEIGHT for left, low in written
        ):
            continue
        written.append((x, y))
        # nothing lies above and to the left of a member, or it would not be one
        axes.annotate(
            f"#{dot.trial}",
            (dot.x, dot.y),
            xytext=(-4, 5),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=FRONT,
        )


def _scale_x(axes: "Axes", metric: str, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if 0 < 10 * low < high:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    if 0 < high < 1.2 * low:  # three digits could not tell the ticks of a narrower axis apart
        axes.set_xlim(0.9 * low, 1.1 * high)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick_text(metric, value)))


def _tick_text(metric: str, value: float) -> str:
    return short_size(value) if metric_named(metric).is_count else f"{value:.4g}"


def short_size(count: float) -> str:
    """Return a count for an axis: 900k, 1.2M, 2M."""
    text = format_size(count)
    digits, suffix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + suffix
