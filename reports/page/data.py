"""The data of a page as plain values for its script: columns, layers, curves, figures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from castling.errors import ConfigError
from castling.metrics import metric_named, recorded_metrics
from reports.choice import progress_table
from reports.frame import is_dimension
from reports.importance import excess, importance, rank_correlation
from reports.layers import FAMILIES, Layer, by_layer
from reports.manifest import Manifest
from reports.page.run import Run
from reports.page.words import castling_words, duration
from reports.records import TrialState


MOST_ROWS = 20_000
"""Trials of which a page holds every number; of more, dominated ones are counted in bins."""
MOST_CELLS = 400_000
"""Numbers of all trials on a page, so that it has at most 5 MB."""
BINS = (240, 120)
"""Across and up."""
MOST_AXES = 12
MOST_EPOCHS = 160
"""Epochs of a curve on the page; of more, every n-th."""
MOST_CHOICES = 40
STATES = [str(state) for state in TrialState]


def number(value: Any, digits: int = 5) -> float | int | None:
    """Return a number for JSON, rounded to significant digits; None where there is none."""
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    plain = float(value)
    return float(f"{plain:.{digits}g}") if math.isfinite(plain) else None


def numbers(values: Iterable[Any], digits: int = 5) -> list[float | int | None]:
    """Return numbers for JSON; see `number`."""
    return [number(value, digits) for value in values]


def page_data(run: Run, calibration: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return what the page's script draws of one run, as plain data."""
    rows, bins = _rows(run)
    table = importance(run.trials)
    return {
        "kind": "run",
        "x": run.cost,
        "y": run.quality,
        "goals": run.goals,
        "metrics": {name: metric_data(name) for name in shown(rows)},
        "bounds": {bound.metric.name: bound.value for bound in run.budget.bounds()},
        "states": STATES,
        "families": [*FAMILIES],
        "columns": columns(run, rows),
        "bins": bins,
        **architectures(run, rows),
        "front": run.front["trial"].tolist(),
        "knee": int(run.trials.pareto.knee()["trial"]) if len(run.front) > 2 else None,
        "curves": curves_data(run),
        "importance": {
            "dimensions": [str(name) for name in table.index],
            "values": {str(goal): numbers(table[goal], 3) for goal in table},
            "trials": len(run.trials.pareto.trained()),
        },
        "axes": axes(rows, [str(name) for name in table.index]),
        "correlation": correlation(run),
        "progress": progress(run),
        "calibration": calibrated(calibration, run.quality),
        "live": live(run),
    }


def metric_data(name: str) -> dict[str, Any]:
    """Return how the script writes a metric."""
    metric = metric_named(name)
    return {
        "title": metric.title,
        "axis": metric.axis,
        "unit": metric.unit,
        "factor": metric.axis_factor,
        "count": metric.is_count,
        "log": metric.ideal("min") == 0.0 and metric.direction == "min",
        "better": metric.direction,
    }


def shown(rows: pd.DataFrame) -> list[str]:
    """Return the metrics that at least one trial has."""
    return [
        metric.name
        for metric in recorded_metrics()
        if metric.name in rows and rows[metric.name].notna().any()
    ]


def _rows(run: Run) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """Return the trials that the page holds one by one, and bins of the others."""
    trials = run.trials
    depth = max(map(len, run.layers.values()), default=0)
    most = min(MOST_ROWS, MOST_CELLS // (depth + len(shown(trials)) + MOST_AXES + 6))
    if len(trials) <= most:
        return trials, None
    kept = trials["trial"].isin(run.front["trial"]).to_numpy(copy=True)
    last = np.flatnonzero(~kept)[int(kept.sum()) - most :]
    kept[last] = True
    rest = trials[~kept]
    rest = rest[rest[run.cost].notna() & rest[run.quality].notna() & (rest[run.cost] > 0)]
    return trials[kept], _bins(rest, run.cost, run.quality)


def _bins(rest: pd.DataFrame, cost: str, quality: str) -> dict[str, Any]:
    x, y = np.log(rest[cost].to_numpy(dtype=float)), rest[quality].to_numpy(dtype=float)
    counts, across, up = np.histogram2d(x, y, bins=BINS)
    places = np.argwhere(counts > 0)
    middles = [(edges[:-1] + edges[1:]) / 2 for edges in (across, up)]
    return {
        "x": numbers(np.exp(middles[0][places[:, 0]])),
        "y": numbers(middles[1][places[:, 1]]),
        "n": [int(counts[i, j]) for i, j in places],
        "trials": len(rest),
    }


def columns(run: Run, rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the table of trials, column by column."""
    front = set(run.front["trial"])
    trained = set(run.trials.pareto.trained()["trial"])
    beyond = excess(run.trials)
    return {
        "trial": rows["trial"].tolist(),
        "state": [STATES.index(state) for state in rows["state"]],
        "epochs": rows["epochs"].tolist(),
        "planned": rows["epochs_planned"].tolist(),
        "front": [int(trial in front) for trial in rows["trial"]],
        "counts": [int(trial in trained) for trial in rows["trial"]],
        "excess": numbers(beyond.reindex(rows.index), 3),
        **{name: numbers(rows[name]) for name in shown(rows)},
    }


def architectures(run: Run, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the distinct layers, and the places of each trial's layers among them."""
    kinds: dict[tuple[Layer, int | None], int] = {}
    found = [
        [
            kinds.setdefault((layer, ends), len(kinds))
            for layer, ends in zip(
                run.layers.get(trial, []), _mask_ends(run.configs.get(trial, {})), strict=False
            )
        ]
        for trial in rows["trial"].tolist()
    ]
    return {
        "architectures": found,
        "kinds": [
            {**layer._asdict(), "castles": layer.castles, "end": ends} for layer, ends in kinds
        ],
    }


def _mask_ends(config: Mapping[str, Any]) -> list[int | None]:
    """Return the percentage of training at which each layer's mask is empty, None if never."""
    ends: list[int | None] = []
    blocks = config.get("model", {}).get("blocks", [])
    for block in blocks if isinstance(blocks, list) else []:
        mask = block.get("mask") if isinstance(block, Mapping) else None
        rises = isinstance(mask, Mapping) and mask.get("shape") != "constant"
        end = mask.get("end") if isinstance(mask, Mapping) and rises else None
        ends.append(round(100 * end) if isinstance(end, int | float) else None)
    return ends


def curves_data(run: Run) -> dict[str, Any]:
    """Return the curves of each trial that the page holds, by its number."""
    quality = run.quality if run.quality in run.curves else "top1"
    return {
        str(trial): _curve(int(str(trial)), rows, quality, run.layers.get(int(str(trial)), []))
        for trial, rows in run.curves.groupby("trial")
    }


def _curve(trial: int, rows: pd.DataFrame, quality: str, found: Sequence[Layer]) -> dict[str, Any]:
    branch = f"{quality}_branch"
    alive = [by_layer(found, density) for density in rows["mask_density"]]
    both = zip(rows[quality], rows[branch] if branch in rows else rows[quality], strict=True)
    gaps = [
        None if math.isnan(with_branch - castled) else float(with_branch - castled)
        for castled, with_branch in both
    ]
    full = [any(density for density in layer if density) for layer in alive]
    masked = any(density is not None for layer in alive for density in layer)
    words = castling_words(trial, rows["epoch"].tolist(), gaps, full) if masked else ""
    step = max(1, -(-len(rows) // MOST_EPOCHS))
    chosen = [place for place in range(len(rows)) if (len(rows) - 1 - place) % step == 0]
    picked = rows.iloc[chosen]
    return {
        "epochs": picked["epoch"].tolist(),
        "castled": numbers(picked[quality], 4),
        "branch": numbers(picked[branch], 4) if branch in rows else [],
        "density": [[number(density, 2) for density in alive[place]] for place in chosen],
        "ends": _castled_epochs(rows["epoch"].tolist(), alive),
        "words": words or f"No layer of #{trial} has a branch to drop: nothing castles.",
    }


def _castled_epochs(
    epochs: Sequence[int], alive: Sequence[Sequence[float | None]]
) -> list[int | None]:
    """Return the first epoch from which each layer's mask is empty until the end."""
    ends: list[int | None] = []
    for layer in zip(*alive, strict=False):
        full = [epoch for epoch, density in zip(epochs, layer, strict=True) if density]
        last = full[-1] if full else 0
        is_masked = any(density is not None for density in layer)
        ends.append(last + 1 if is_masked and last < epochs[-1] else None)
    return ends


def axes(rows: pd.DataFrame, ranked: Sequence[str]) -> list[dict[str, Any]]:
    """Return the live dimensions as axes, the most important first, at most MOST_AXES."""
    names = [*ranked, *(str(name) for name in rows if is_dimension(str(name)))]
    live = [name for name in dict.fromkeys(names) if len(rows[name].unique()) > 1]
    return [_axis(name, rows[name]) for name in live[:MOST_AXES]]


def _axis(name: str, values: "pd.Series[Any]") -> dict[str, Any]:
    if str(values.dtype) in {"Int64", "Float64"}:
        measured = values.dropna().astype(float)
        wide = len(measured) > 0 and 0 < 20 * measured.min() < measured.max()
        listed = numbers(values.to_numpy(dtype=float, na_value=math.nan), 4)
        return {"name": name, "values": listed, "labels": None, "log": bool(wide)}
    text = values.astype("string")
    labels = sorted(text.dropna().unique())[:MOST_CHOICES]
    places = {label: place for place, label in enumerate(labels)}
    listed = numbers(text.map(places).to_numpy(dtype=float, na_value=math.nan))
    return {"name": name, "values": listed, "labels": labels, "log": False}


def correlation(run: Run) -> dict[str, Any]:
    """Return how early ranks agree with final ones, by epoch."""
    quality = run.quality if run.quality in run.curves else "top1"
    table = rank_correlation(run.curves, run.trials, quality)
    return {
        "epochs": table["epoch"].tolist(),
        "rho": numbers(table["correlation"], 3),
        "trials": int(table["trials"].max()) if len(table) else 0,
    }


def progress(run: Run) -> dict[str, Any]:
    """Return the hypervolume over trials, epochs and time, and what the stopper saved."""
    stopped = run.everything[run.everything["state"] == str(TrialState.STOPPED)]
    saved = int((stopped["epochs_planned"] - stopped["epochs"]).sum())
    whole = int(run.everything.loc[run.everything["epochs"] > 0, "epochs_planned"].sum())
    words = ""
    if saved:
        words = (
            f"The stopper ended {len(stopped):,} trainings early and saved {saved:,} of "
            f"{whole:,} epochs ({100.0 * saved / whole:.0f} %)."
        )
    try:
        table = progress_table(run.trials)
    except ConfigError as error:
        return {"why": str(error), "saved": words, "volumes": []}
    changes = table["hypervolume"].diff().fillna(1.0) != 0.0
    table = table[changes | (table.index == table.index.max())]
    return {
        "why": "",
        "saved": words,
        "trial": table["trial"].tolist(),
        "volumes": numbers(table["hypervolume"], 5),
        "trials": table["trials"].tolist(),
        "epochs": [int(value) for value in table["epochs"]],
        "hours": numbers(table["hours"], 4),
    }


def calibrated(table: pd.DataFrame | None, quality: str) -> dict[str, Any] | None:
    """Return the surrogate's predictions without each trial, against what was measured."""
    if table is None or table.empty:
        return None
    off = (table["measured"] - table["expected"]).abs()
    inside = float((off <= 2.0 * table["std"]).mean())
    spread = float(table["measured"].std())
    typical = float(off.median())
    factor = metric_named(quality).axis_factor
    unit = " points" if factor == 100.0 else ""
    return {
        "trial": table["trial"].tolist(),
        "measured": numbers(table["measured"], 5),
        "expected": numbers(table["expected"], 5),
        "std": numbers(table["std"], 3),
        "words": (
            f"Each of {len(table)} models, predicted from the others: {100.0 * inside:.0f} % lie "
            f"within two standard deviations (95 % would be calibrated); half are off by less "
            f"than {factor * typical:.2g}{unit}, the models differ by a "
            f"standard deviation of {factor * spread:.2g}."
        ),
    }


def live(run: Run) -> dict[str, Any] | None:
    """Return the badge of a run that goes on; None of one that ended."""
    if not run.is_live:
        return {"state": "interrupted", "words": "interrupted"} if run.count["running"] else None
    left = run.seconds_left
    time = f", about {duration(left)} left" if left else ""
    return {"state": "live", "words": f"live: {run.count['running']} in training{time}"}


def version_words(manifest: Manifest) -> str:
    """Return the versions of the libraries."""
    return ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
