"""The data and sentences of a page that compares runs: fronts, hypervolumes, who wins where."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from castling.errors import ConfigError
from reports.choice import compared
from reports.page.data import architectures, metric_data, numbers, shown
from reports.page.run import Run
from reports.page.words import short


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the page's script draws of several runs.

    Raises:
        ConfigError: when fewer than two are given, or their objectives differ.
    """
    first = check_alike(runs)
    names = names_of(runs)
    together = pd.concat([run.front.assign(_run=place) for place, run in enumerate(runs)])
    kinds = architectures(_merged(runs), together.assign(trial=range(len(together))))
    fronts = {name: run.front for name, run in zip(names, runs, strict=True)}
    table = compared(fronts, first.goals)
    return {
        "kind": "compare",
        "x": first.cost,
        "y": first.quality,
        "goals": first.goals,
        "metrics": {
            name: metric_data(name) for name in dict.fromkeys([*shown(together), *first.goals])
        },
        "kinds": kinds["kinds"],
        "families": [],
        "runs": [
            {
                "name": name,
                "folder": str(run.folder),
                "trials": run.front["trial"].tolist(),
                "x": numbers(run.front[first.cost]),
                "y": numbers(run.front[first.quality]),
                "others": {
                    "x": numbers(_others(run)[first.cost]),
                    "y": numbers(_others(run)[first.quality]),
                },
                "architectures": [
                    architecture
                    for architecture, place in zip(
                        kinds["architectures"], together["_run"], strict=True
                    )
                    if place == number
                ],
                "volume": volume,
            }
            for number, (name, run, volume) in enumerate(
                zip(names, runs, volumes(runs), strict=True)
            )
        ],
        "winners": {
            "cost": numbers(table[first.cost]),
            "winner": [names.index(name) if name in names else -1 for name in table["winner"]],
            "values": [numbers(table[name]) for name in names],
        },
        "live": None,
    }


def comparison_words(runs: Sequence[Run]) -> str:
    """Return who is ahead, in a sentence."""
    first, names = runs[0], names_of(runs)
    fronts = {name: run.front for name, run in zip(names, runs, strict=True)}
    empty = [name for name, front in fronts.items() if front.empty]
    if empty:
        return f"No model of {' and '.join(empty)} is fully trained within its budget."
    table = compared(fronts, first.goals)
    parts = []
    for name in names:
        won = table[table["winner"] == name]
        if len(won):
            best = won.iloc[-1]
            parts.append(
                f"{name} has the better model at {len(won)} of {len(table)} budgets, up to "
                f"{short(first.quality, float(best[name]))} at "
                f"{short(first.cost, float(best[first.cost]))}"
            )
    return "; ".join(parts) + "." if parts else "At every budget the runs are equal."


def volumes(runs: Sequence[Run]) -> list[float | None]:
    """Return the relative hypervolume of each run with one reference, the first run's."""
    first = runs[0]
    reference = first.trials.pareto.reference
    if not first.goals.keys() <= reference.keys():
        return [None] * len(runs)
    found: list[float | None] = []
    for run in runs:
        try:
            found.append(float(run.trials.pareto.hypervolume(relative=True, reference=reference)))
        except ConfigError:  # a metric without an ideal value
            found.append(None)
    return found


def check_alike(runs: Sequence[Run]) -> Run:
    """Return the first run; ConfigError with fewer than two, or when their objectives differ."""
    if len(runs) < 2:
        raise ConfigError("runs", "must be at least two to compare", len(runs))
    first = runs[0]
    for run in runs[1:]:
        if run.goals != first.goals:
            rule = f"must have the objectives of {first.folder} ({_goals(first)}) to be compared"
            fix = "compare runs with the same objectives"
            raise ConfigError(str(run.folder), rule, _goals(run), fix)
    return first


def _goals(run: Run) -> str:
    return ", ".join(f"{metric} {way}" for metric, way in run.goals.items())


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return a short name of each run, no two alike."""
    names = [run.folder.resolve().name for run in runs]
    if len({*names}) < len(names):
        names = [str(run.folder) for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({place + 1})"
        for place, name in enumerate(names)
    ]


def _others(run: Run) -> pd.DataFrame:
    trained = run.trials.pareto.trained()
    return trained[~trained["trial"].isin(run.front["trial"])].tail(5_000)


def _merged(runs: Sequence[Run]) -> Run:
    """Return a run whose configs are those of all fronts, numbered from 0 in their order."""
    first = runs[0]
    configs = [run.configs.get(trial, {}) for run in runs for trial in run.front["trial"]]
    return Run(
        folder=first.folder,
        manifest=first.manifest,
        everything=first.everything,
        trials=first.trials,
        configs=dict(enumerate(configs)),
    )
