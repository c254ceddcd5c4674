"""A run's report: a self-contained HTML page, figures as PNG, the front and the trials as CSV."""

import base64
import errno
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from castling.errors import RunFolderError
from castling.files import write_bytes
from castling.metrics import metric_named
from reports.figures import draw_front, draw_progress, front_figures, progress_figure, to_png
from reports.frame import is_dimension, load
from reports.front import front_text, relative_hypervolume
from reports.manifest import Manifest
from reports.records import REPORT_FOLDER, TrialState


PROGRESS = "hypervolume.png"


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    max: Mapping[str, str | float] | None = None,  # noqa: A002 - as in a recipe
    min: Mapping[str, str | float] | None = None,  # noqa: A002
) -> list[Path]:
    """Write a run's report and return its files, the page first.

    The files are index.html, which needs no other, front.png (and front-METRIC.png for more than
    two objectives), hypervolume.png where there is one, front.csv and trials.csv; each replaces
    its predecessor atomically.

    Args:
        run: folder of the run; it may be live.
        out: folder to write to, RUN/report by default.
        max: largest values of metrics of the reported models, in addition to the run's budget.
        min: smallest values of their metrics.

    Raises:
        ConfigError: when a limit is malformed.
        RunFolderError: when the folder is no run, has no study, or `out` cannot be written.
        OSError: when the disk is full.
        RecordError: when the study or a record in it is damaged.
    """
    folder = Path(run)
    target = folder / REPORT_FOLDER if out is None else Path(out)
    trials = load(folder, refused=True)
    shown = trials.pareto.within(max=max, min=min) if max or min else trials
    images = _images(shown)
    files = {
        "index.html": render_page(folder, shown, images).encode(),
        **{name: image.png for name, image in images.items()},
        "front.csv": _csv(shown.pareto.front()),
        "trials.csv": _csv(trials),
    }
    try:
        for name, content in files.items():
            write_bytes(target / name, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        rule = f"cannot be written to ({error.strerror})"
        raise RunFolderError(str(target), rule, "choose another folder for the report") from None
    return [target / name for name in files]


class Image(NamedTuple):
    """A figure of the page."""

    png: bytes
    description: str


def _images(trials: pd.DataFrame) -> dict[str, Image]:
    """Return the figures by the names of their files, those of the front first."""
    images = {}
    for number, figure in enumerate(front_figures(trials)):
        name = f"front-{figure.x}.png" if number else "front.png"
        images[name] = Image(to_png(draw_front(figure)), figure.description)
    if relative_hypervolume(trials).value is not None:
        png = to_png(draw_progress(progress_figure(trials)))
        images[PROGRESS] = Image(png, "hypervolume against trained models")
    return images


def _csv(trials: pd.DataFrame) -> bytes:
    return trials.to_csv(index=False, lineterminator="\n").encode()


def render_page(run: Path, trials: pd.DataFrame, images: Mapping[str, Image]) -> str:
    """Return the HTML page of a run; every text from outside is escaped."""
    manifest = Manifest.read(run)
    front = trials.pareto.front()
    name = f"{manifest.recipe.get('name', 'search')}, {run.resolve().name}"
    commands = "\n".join(export_commands(run, front)) or "nothing to export yet"
    recipe = yaml.safe_dump(manifest.recipe, sort_keys=False, allow_unicode=True)
    parts = [
        f"<h1>{escape(name)}</h1>",
        *(_image(image) for name, image in images.items() if name != PROGRESS),
        "<h2>Front</h2>",
        _front_table(front),
        "<h2>Export</h2>",
        f"<pre>{escape(commands)}</pre>",
        "<h2>Run</h2>",
        _facts(run_facts(manifest, trials)),
        *(_image(image) for name, image in images.items() if name == PROGRESS),
        _details("What the models of the front are", _dimension_table(front)),
        _details("Resolved recipe", f"<pre>{escape(recipe)}</pre>"),
    ]
    return PAGE.format(title=escape(name), style=STYLE, body="\n".join(parts))


def export_commands(run: Path, front: pd.DataFrame) -> list[str]:
    """Return the command that exports each member of a front."""
    return [
        shlex.join(
            ["castling", "export", str(run), "--trial", str(trial), "--out", f"trial-{trial}"]
        )
        for trial in front["trial"]
    ]


def run_facts(manifest: Manifest, trials: pd.DataFrame) -> dict[str, str]:
    """Return the most important facts of a run, as label and text."""
    volume = relative_hypervolume(trials)
    worst = ", ".join(
        f"{name} {metric_named(name).text(trials.pareto.reference[name])}"
        for name in trials.pareto.objectives
        if name in trials.pareto.reference
    )
    hypervolume = (
        volume.words if volume.value is None else f"{volume.value:.4f} (reference {worst})"
    )
    spent = trials.loc[trials["replay_of"].isna(), "train_seconds"].sum() / 3600.0
    return {
        "recipe": str(manifest.recipe.get("name", "unnamed")),
        "budget": trials.pareto.budget.words() or "none",
        "objectives": ", ".join(f"{goal.metric} {goal.direction}" for goal in manifest.objectives),
        "hypervolume": hypervolume,
        "trials": ", ".join(_counts(trials["state"])) or "none",
        "training time": f"{spent:.2f} h in all",
        "started": manifest.created_at.strftime("%Y-%m-%d %H:%M %Z"),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "git commit": manifest.git_commit or "unknown",
    }


def _counts(states: "pd.Series[str]") -> list[str]:
    counts = [(state, int((states == state).sum())) for state in TrialState]
    return [f"{count:,} {state}" for state, count in counts if count]


def _image(image: Image) -> str:
    data = base64.b64encode(image.png).decode()
    return f'<img alt="{escape(image.description)}" src="data:image/png;base64,{data}">'


def _front_table(front: pd.DataFrame) -> str:
    columns = {
        **front_text(front, ("training_macs", "latency_ms"), exact=True),
        "epochs": front["epochs"].map(str),
    }
    return _table(columns, zip(*columns.values(), strict=True))


def _dimension_table(front: pd.DataFrame) -> str:
    dimensions = front[[name for name in front if is_dimension(str(name))]].dropna(
        axis=1, how="all"
    )
    rows = [[str(name), *map(_brief, dimensions[name].astype(object))] for name in dimensions]
    return _table(["dimension", *(f"#{trial}" for trial in front["trial"])], rows)


def _brief(value: Any) -> str:
    if value is None or value is pd.NA:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{first}</tr>\n{body}</table></div>'


def _facts(facts: Mapping[str, str]) -> str:
    items = "\n".join(
        f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts.items()
    )
    return f"<dl>{items}</dl>"


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22272e; background: #fff;
       max-width: 860px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
img { width: 100%; max-width: 760px; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .8rem; border-bottom: 1px solid #e8ebef;
         white-space: nowrap; }
th { color: #5b6470; font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; }
dt { color: #5b6470; } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f5f7f9; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px;
      font-size: 13px; }
summary { cursor: pointer; margin: 1.2rem 0 .6rem; font-weight: 600; }
"""
