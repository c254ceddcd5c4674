"""The sentences of a page: the answer, what castling earlier would have cost, what is missing."""

from collections.abc import Sequence

import pandas as pd

from castling.errors import ConfigError
from castling.metrics import FRACTION, metric_named
from reports.page.run import Run


SPACE = "\u00a0"
"""Between a number and its unit: no line breaks there."""
GIVEN_UP = 0.02
"""What the cheaper model of the answer may give up, as a fraction of 1."""
LEAST_GAP = 0.0005
"""A difference in accuracy below which castling costs nothing."""


def short(name: str, value: float) -> str:
    """Return a metric with its unit: 98.33 %, 330k MACs."""
    metric = metric_named(name)
    if metric.unit == FRACTION:
        return f"{100.0 * value:.2f}{SPACE}%"
    return metric.amount(value, short=True)


def answer(run: Run) -> str:
    """Return the answer of a run in a sentence or two: its best model, and a cheaper one."""
    if run.front.empty:
        return "No model is fully trained within the budget yet."
    better = metric_named(run.quality).direction != "min"
    ordered = run.front.sort_values([run.quality, run.cost], ascending=[not better, True])
    best = ordered.iloc[0]
    parts = [
        f"#{best['trial']} reaches {short(run.quality, float(best[run.quality]))} "
        f"with {short(run.cost, float(best[run.cost]))}{_castling(run, int(best['trial']))}."
    ]
    if better and metric_named(run.quality).unit == FRACTION:
        parts += _cheaper(run, best)
    return " ".join(parts)


def _castling(run: Run, trial: int) -> str:
    found = run.layers.get(trial, [])
    if not found:
        return ""
    number = sum(layer.castles for layer in found)
    if not number:
        return f"; none of its {len(found)} layers castles"
    verb = "castles" if number == 1 else "castle"
    return f"; {number} of its {len(found)} layers {verb}"


def _cheaper(run: Run, best: "pd.Series[float]") -> list[str]:
    least = float(best[run.quality]) - GIVEN_UP
    enough = run.front[run.front[run.quality] >= least]
    other = enough.sort_values(run.cost, kind="stable").iloc[0]
    saved = 1.0 - float(other[run.cost]) / float(best[run.cost]) if best[run.cost] else 0.0
    if other["trial"] == best["trial"] or saved < 0.01:
        return []
    points = 100.0 * (float(best[run.quality]) - float(other[run.quality]))
    unit = metric_named(run.cost).unit or metric_named(run.cost).title
    less = "Equally accurate" if points < 0.005 else f"{points:.1f} points less"
    verb = "costs" if points < 0.005 else "cost"
    return [f"{less} {verb} {100.0 * saved:.0f}{SPACE}% fewer {unit}: #{other['trial']}."]


def castling_words(
    trial: int,
    epochs: Sequence[int],
    gaps: Sequence[float | None],
    full: Sequence[bool],
) -> str:
    """Return what castling a trial's model earlier would have cost.

    Args:
        trial: its number.
        epochs: numbers of its epochs.
        gaps: accuracy with the branch minus accuracy castled after each epoch; None if unknown.
        full: whether a mask had entries after each epoch.
    """
    costs = [(gap, epoch) for gap, epoch in zip(gaps, epochs, strict=True) if gap is not None]
    if not costs or not any(full):
        return f"The masks of #{trial} were empty from its first epoch: it castled at once."
    alive = [epoch for epoch, is_full in zip(epochs, full, strict=True) if is_full]
    worst, when = max(costs)
    if worst < LEAST_GAP:
        cost = f"Castling #{trial} would have cost nothing after any epoch"
    else:
        cost = f"Castling #{trial} after epoch {when} would have cost {100.0 * worst:.1f} points"
    if alive[-1] == epochs[-1]:
        final = costs[-1][0]
        end = "nothing" if abs(final) < LEAST_GAP else f"{100.0 * final:+.2f} points"
        return f"{cost}; its masks were alive at the end, and dropping the branch cost {end}."
    empty = f"from epoch {alive[-1] + 1} of {epochs[-1]} its masks are empty"
    return f"{cost}; {empty}: it costs nothing."


def notice(run: Run) -> str:
    """Return what a reader must know first: why there is little to see, and a remedy."""
    sentences = []
    if run.manifest.castling_run < 2:
        version = run.manifest.versions.get("castling-nas", "an older version")
        sentences.append(
            f"This run was written by castling-nas {version}, which recorded less: "
            "parts of the page may be empty."
        )
    if run.everything.empty:
        sentences.append("The run has no trial yet: wait for the search, or resume it.")
    elif run.front.empty:
        sentences.append(_nothing_on_the_front(run))
    elif len(run.trials.pareto.trained()) == 1:
        sentences.append("One model is fully trained: a front of one point compares nothing.")
    if run.count["running"] and not run.is_live:
        sentences.append(
            f"{_trials(run.count['running'])} did not end, and the search no longer runs: "
            "castling search --out RUN --resume goes on."
        )
    return " ".join(sentences)


def _nothing_on_the_front(run: Run) -> str:
    failed, running = run.count["failed"], run.count["running"]
    if failed and failed == len(run.everything):
        return f"{_trials(failed)} failed, and none was trained: the reasons are under Failures."
    limits = run.budget
    free = run.everything.copy()
    free.attrs = {**run.everything.attrs, "budget": {}}
    try:
        bounds = {"max": dict(limits.max), "min": dict(limits.min)}
        free.pareto.best(
            max_macs=limits.max_macs,
            max_params=limits.max_params,
            max_latency_ms=limits.max_latency_ms,
            **bounds,
        )
    except ConfigError as error:
        if "admit" in error.rule:
            return f"No trained model is within the budget: {error.field} {error.rule}."
    if running:
        return f"{_trials(running)} under way, none is fully trained yet."
    return "No trial is fully trained: all were stopped, failed or over budget."


def _trials(number: int) -> str:
    return f"{number:,} trial{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 7 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
