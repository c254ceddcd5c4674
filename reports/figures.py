"""Figures of a run: what is drawn, records to that, that to matplotlib; no pyplot, no display."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from castling.errors import ConfigError
from reports.accessor import DEFAULT_OBJECTIVES
from space.budget import format_size


if TYPE_CHECKING:  # importing matplotlib takes longer than reading a run
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT, GRID = "#22272e", "#5b6470", "#aab1ba", "#e8ebef"
FRONT, BUDGET = "#1b62b5", "#c2410c"
LABEL_WIDTH, LABEL_HEIGHT = 22.0, 10.0
"""Points that a label keeps from its neighbour."""
MAX_LABELS = 24
"""A front with more members than this is drawn without their trial numbers."""


class Dot(NamedTuple):
    """One fully trained trial."""

    trial: int
    macs: int
    top1: float
    """Validation accuracy in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontFigure:
    """Accuracy against MACs: every trained trial, and those that no other beats in both."""

    front: tuple[Dot, ...]
    """By rising MACs, hence by rising accuracy."""
    others: tuple[Dot, ...]
    max_macs: int | None
    """The budget, where the run has one."""
    hypervolume: float | None
    """Of the run's own objectives, as a fraction; None where the reference is not known."""

    @property
    def title(self) -> str:
        """How many trials, how many of them on the front, the hypervolume."""
        if not self.front:
            return "No model is fully trained yet"
        number = f"{len(self.front)} of {_models(len(self.front) + len(self.others))} on the front"
        return _with_volume(number, self.hypervolume)


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


def front_figure(trials: pd.DataFrame) -> FrontFigure:
    """Return what the front figure shows of a run's trials."""
    trained = trials.pareto.trained(objectives=DEFAULT_OBJECTIVES)
    front = trials.pareto.front(objectives=DEFAULT_OBJECTIVES)
    return FrontFigure(
        front=_dots(front),
        others=_dots(trained[~trained["trial"].isin(front["trial"])]),
        max_macs=trials.attrs.get("budget", {}).get("max_macs"),
        hypervolume=relative_hypervolume(trials),
    )


def _dots(trials: pd.DataFrame) -> tuple[Dot, ...]:
    columns = zip(trials["trial"], trials["macs"], trials["top1"], strict=True)
    return tuple(Dot(int(trial), int(macs), 100.0 * float(top1)) for trial, macs, top1 in columns)


def progress_figure(trials: pd.DataFrame) -> ProgressFigure:
    """Return what the progress figure shows of a run's trials."""
    if relative_hypervolume(trials) is None:
        return ProgressFigure(hypervolume=())
    volumes = trials.pareto.progress(relative=True)
    return ProgressFigure(hypervolume=tuple(float(volume) for volume in volumes))


def relative_hypervolume(trials: pd.DataFrame) -> float | None:
    """Return the run's hypervolume as a fraction, None where its objectives do not define one."""
    try:
        return float(trials.pareto.hypervolume(relative=True))
    except ConfigError:
        return None


def draw_front(data: FrontFigure) -> "Figure":
    """Return the front as a matplotlib figure."""
    figure, axes = _blank("MACs per image", "validation accuracy (%)", data.title)
    if not data.front:
        axes.set(xticks=[], yticks=[])
        return figure
    macs, top1 = [dot.macs for dot in data.others], [dot.top1 for dot in data.others]
    axes.plot(macs, top1, "o", ms=4.5, mew=0, color=FAINT)
    _draw_staircase(axes, data)
    bounds = [dot.macs for dot in (*data.front, *data.others)]
    if data.max_macs is not None:
        _draw_budget(axes, data.max_macs)
        bounds.append(data.max_macs)
    _scale_macs(axes, min(bounds), max(bounds))
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


def _draw_budget(axes: "Axes", max_macs: int) -> None:
    axes.axvline(max_macs, color=BUDGET, lw=1.2, ls=(0, (5, 3)))
    axes.annotate(
        f"budget {short_size(max_macs)}",
        (max_macs, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=BUDGET,
    )


def _draw_staircase(axes: "Axes", data: FrontFigure) -> None:
    macs, top1 = [dot.macs for dot in data.front], [dot.top1 for dot in data.front]
    end = max(data.max_macs or 0, *(dot.macs for dot in (*data.front, *data.others)))
    axes.plot([macs[-1], end], [top1[-1]] * 2, color=FRONT, lw=1.6, alpha=0.35)
    axes.plot(macs, top1, drawstyle="steps-post", color=FRONT, lw=1.6)
    axes.plot(macs, top1, "o", ms=7, mfc=FRONT, mec="white", mew=1.2)


def _draw_labels(axes: "Axes", data: FrontFigure) -> None:
    """Write the trials' numbers beside the front, the dearest first; none over another."""
    if len(data.front) > MAX_LABELS:
        return
    points_per_pixel = 72.0 / axes.figure.get_dpi()
    written: list[tuple[float, float]] = []
    for dot in reversed(data.front):
        x, y = axes.transData.transform((dot.macs, dot.top1)) * points_per_pixel
        if any(
            abs(x - left) < LABEL_WIDTH and abs(y - low) < LABEL_HEIGHT for left, low in written
        ):
            continue
        written.append((x, y))
        # nothing lies above and to the left of a member, or it would not be one
        axes.annotate(
            f"#{dot.trial}",
            (dot.macs, dot.top1),
            xytext=(-4, 5),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=FRONT,
        )


def _scale_macs(axes: "Axes", low: int, high: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if high > 10 * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7))
    if high < 1.2 * low:  # three digits could not tell the ticks of a narrower axis apart
        axes.set_xlim(0.9 * low, 1.1 * high)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_size(value)))


def short_size(count: float) -> str:
    """Return a count for an axis: 900k, 1.2M, 2M."""
    text = format_size(count)
    digits, suffix = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + suffix
