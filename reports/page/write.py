"""Writes a run's report: the page, figures as PNG, the front and the trials as CSV."""

import errno
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd
import yaml

from castling.errors import RunFolderError
from castling.files import write_bytes
from castling.metrics import metric_named
from reports.figures import draw_front, draw_progress, front_figures, progress_figure, to_png
from reports.frame import is_dimension
from reports.front import front_text, relative_hypervolume
from reports.manifest import Manifest
from reports.page.compare import comparison, comparison_words, volumes
from reports.page.data import page_data, version_words
from reports.page.html import Image, Page, Part, details, document, facts, image, table
from reports.page.run import Run
from reports.page.words import answer, duration, notice
from reports.records import REPORT_FOLDER, TrialState, trace_tail


PROGRESS = "hypervolume.png"


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    max: Mapping[str, str | float] | None = None,  # noqa: A002 - as in a recipe
    min: Mapping[str, str | float] | None = None,  # noqa: A002
    calibration: pd.DataFrame | None = None,
    refresh: int | None = None,
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
        calibration: the sampler's predictions without each trial, as
            `search.samplers.pareto.calibration` returns them; None leaves that figure out.
        refresh: seconds after which the open page reloads itself; None for never.

    Raises:
        ConfigError: when a limit is malformed.
        RunFolderError: when the folder is no run, has no study, or `out` cannot be written.
        OSError: when the disk is full.
        RecordError: when the study or a record in it is damaged.
    """
    folder = Path(run)
    target = folder / REPORT_FOLDER if out is None else Path(out)
    shown = Run.read(folder, max=max, min=min)
    images = _images(shown.trials)
    contents = {
        "index.html": render_page(shown, images, calibration, refresh).encode(),
        **{name: picture.png for name, picture in images.items()},
        "front.csv": _csv(shown.front),
        "trials.csv": _csv(shown.everything),
    }
    return _write(target, contents)


def compare_runs(runs: Sequence[str | Path], out: str | Path) -> list[Path]:
    """Write a page that compares runs, with the fronts as CSV, and return the files.

    Raises:
        ConfigError: when fewer than two runs are given, or their objectives differ.
        RunFolderError: when a folder is no run, or `out` cannot be written.
    """
    read = [Run.read(Path(run)) for run in runs]
    data = comparison(read)
    names = [str(each["name"]) for each in data["runs"]]
    chips = {
        f"{name}, hypervolume": "none" if volume is None else f"{volume:.4f}"
        for name, volume in zip(names, volumes(read), strict=True)
    }
    fronts = pd.concat([run.front.assign(run=name) for name, run in zip(names, read, strict=True)])
    still = "".join(
        f"<h2>{escape(name)}</h2>{_front_table(run.front)}"
        for name, run in zip(names, read, strict=True)
    )
    page = Page(
        title=" against ".join(names),
        lead=comparison_words(read),
        notice=" ".join(filter(None, map(notice, read))),
        chips=chips,
        parts=[
            Part("front", "Fronts"),
            Part("winners", "Who wins at which budget"),
            Part("strips", "Models by cost"),
        ],
        still=still,
        data=data,
    )
    return _write(Path(out), {"index.html": document(page).encode(), "fronts.csv": _csv(fronts)})


def _write(target: Path, contents: Mapping[str, bytes]) -> list[Path]:
    try:
        for name, content in contents.items():
            write_bytes(target / name, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        rule = f"cannot be written to ({error.strerror})"
        raise RunFolderError(str(target), rule, "choose another folder for the report") from None
    return [target / name for name in contents]


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


def render_page(
    run: Run,
    images: Mapping[str, Image],
    calibration: pd.DataFrame | None = None,
    refresh: int | None = None,
) -> str:
    """Return the HTML page of a run; every text from outside is escaped."""
    commands = "\n".join(export_commands(run.folder, run.front)) or "nothing to export yet"
    recipe = yaml.safe_dump(run.manifest.recipe, sort_keys=False, allow_unicode=True)
    still = "".join([*(image(picture) for picture in images.values()), _front_table(run.front)])
    about = "".join(
        [
            facts(run_facts(run.manifest, run.trials)),
            details("Commands that export the front", _text(commands)),
            details("What the models of the front are", _dimension_table(run.front)),
            details("Resolved recipe", _text(recipe)),
        ]
    )
    data = page_data(run, calibration)
    page = Page(
        title=f"castling: {run.name}",
        lead=answer(run),
        notice=notice(run),
        chips=_chips(run),
        parts=[
            *PARTS,
            Part("failures", "Failures", "", _failures(run)),
            Part("about", "Run", "", about),
        ],
        still=still,
        data={**data, "export": _export_words(run.folder), "refresh": refresh},
    )
    return document(page)


PARTS = (
    Part("front", "Front"),
    Part("strips", "Which layers castle"),
    Part("castling", "How it castled"),
    Part(
        "effects",
        "Operator by layer",
        "Accuracy beyond what the cost predicts, the mean over fully trained models.",
    ),
    Part("matters", "What matters"),
    Part("progress", "Hypervolume"),
    Part("calibration", "The surrogate's calibration"),
    Part("trials", "All trials"),
)
"""The parts of the page that the script draws."""


def _text(text: str) -> str:
    return f'<pre tabindex="0">{escape(text)}</pre>'


def _chips(run: Run) -> dict[str, str]:
    volume = relative_hypervolume(run.trials).value
    spent = {"hypervolume": "none" if volume is None else f"{volume:.3f}"}
    counts = {
        name: f"{run.count[name]:,}"
        for name in ("trained", "stopped", "failed", "replayed", "refused", "running")
        if run.count[name] or name in {"trained", "stopped", "failed"}
    }
    return {
        **spent,
        **counts,
        "on the front": f"{len(run.front):,}",
        "of training": duration(run.seconds),
    }


def _failures(run: Run) -> str:
    if not run.failures:
        return "<p>No trial failed.</p>"
    parts = []
    for failure in run.failures:
        numbers = ", ".join(f"#{trial}" for trial in failure.trials[:40])
        more = f" and {len(failure.trials) - 40:,} more" if len(failure.trials) > 40 else ""
        trace = trace_tail(run.folder, failure.trials[-1])
        body = _text(trace) if trace else ""
        summary = f"{len(failure.trials):,} x {failure.reason}"
        parts.append(details(summary, f"<p>{numbers}{more}</p>{body}"))
    return "".join(parts)


def _export_words(run: Path) -> str:
    """Return the command that exports a trial, with {} for its number."""
    return shlex.join(["castling", "export", str(run)]) + " --trial {} --out trial-{}"


def export_commands(run: Path, front: pd.DataFrame) -> list[str]:
    """Return the command that exports each member of a front."""
    return [_export_words(run).replace("{}", str(trial)) for trial in front["trial"]]


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
        "versions": version_words(manifest),
        "git commit": manifest.git_commit or "unknown",
        "layout": f"version {manifest.castling_run} of the run folder",
    }


def _counts(states: "pd.Series[str]") -> list[str]:
    counts = [(state, int((states == state).sum())) for state in TrialState]
    return [f"{count:,} {state}" for state, count in counts if count]


def _front_table(front: pd.DataFrame) -> str:
    columns = {
        **front_text(front, ("training_macs", "latency_ms"), exact=True),
        "epochs": front["epochs"].map(str),
    }
    return table(columns, zip(*columns.values(), strict=True))


def _dimension_table(front: pd.DataFrame) -> str:
    dimensions = front[[name for name in front if is_dimension(str(name))]].dropna(
        axis=1, how="all"
    )
    rows = [[str(name), *map(_brief, dimensions[name].astype(object))] for name in dimensions]
    return table(["dimension", *(f"#{trial}" for trial in front["trial"])], rows)


def _brief(value: object) -> str:
    if value is None or value is pd.NA:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
