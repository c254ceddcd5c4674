"""The command line `castling`: every command parses, calls one function and prints."""

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from castling.errors import CastlingError, ConfigError, one_line
from castling.sizes import format_size
from castling.untrusted.plain_yaml import parse_yaml


if TYPE_CHECKING:
    import pandas as pd

    from castling.training.metrics import EpochMetrics


app = typer.Typer(
    name="castling",
    help="Search, train and export vision transformers that castle: linear cost, full context.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(markup=False, emoji=False)  # a path may hold [/b] or :car:
errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder: a search's --out.")]
ConfigArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML file of a config, or a folder with one.")
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write; new or empty.")]
MaxMacs = Annotated[str | None, typer.Option(help="Budget of MACs per image: 900k, 1.2M, 1.3G.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set a config field: train.epochs=10."),
]
MaxParams = Annotated[str | None, typer.Option(help="Budget of parameters: 60k, 5.7M.")]
MaxOption = Annotated[
    list[str] | None,
    typer.Option("--max", metavar="METRIC=VALUE", help="Upper bound: train_seconds=60."),
]
MinOption = Annotated[
    list[str] | None, typer.Option("--min", metavar="METRIC=VALUE", help="Lower bound: top1=90%.")
]
ObjectiveOption = Annotated[
    list[str] | None,
    typer.Option(
        "--objective", metavar="METRIC:DIRECTION", help="What to trade off: top1:max, macs:min."
    ),
]


@app.command()
def search(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Recipe, space or YAML file; may be left out with --resume."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/RECIPE.")] = None,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Budget of milliseconds per image on this machine.")
    ] = None,
    upper: MaxOption = None,
    lower: MinOption = None,
    objective: ObjectiveOption = None,
    points: Annotated[Path | None, typer.Option(help="YAML file of points to try first.")] = None,
    trials: Annotated[int | None, typer.Option(help="How many candidates to train.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many to train at a time.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Who proposes candidates.")] = None,
    stopper: Annotated[str | None, typer.Option(help="Who gives trainings up early.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the proposals.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of class folders, or of train/ and test/ of them.")
    ] = None,
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default this machine.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database URL for the study; no password is stored.")
    ] = None,
) -> None:
    """Search a space for the front of accuracy against cost."""
    if recipe is None and (out is None or not resume):
        raise ConfigError("RECIPE", "is required, unless --out RUN --resume goes on with a run")
    folder = out or Path("runs") / Path(recipe or "").stem

    from reports.records import MANIFEST_FILE
    from search.commands.display import TerminalDisplay
    from search.driver import run
    from search.objectives import parse_objectives
    from space.budget import parse_bounds

    try:
        summary = run(
            recipe,
            out=folder,
            resume=resume,
            max_macs=max_macs,
            max_params=max_params,
            max_latency_ms=max_latency_ms,
            max=parse_bounds(upper or [], "--max"),
            min=parse_bounds(lower or [], "--min"),
            objectives=parse_objectives(objective) if objective else None,
            points=points,
            trials=trials,
            workers=workers,
            sampler=sampler,
            stopper=stopper,
            seed=seed,
            images=images,
            settings=parse_settings(settings or []),
            address=address,
            storage=storage,
            display=TerminalDisplay(console),
        )
    except KeyboardInterrupt:
        begun = (folder / MANIFEST_FILE).exists()
        hint = f"go on with: castling search --out {folder} --resume" if begun else "nothing begun"
        errors.print(f"interrupted; {hint}")
        raise typer.Exit(INTERRUPTED) from None
    if summary.exhausted:
        console.print("the space has no further candidate within the budget")
    stopped = f"{summary.stopped} stopped early, " if summary.stopped else ""
    console.print(
        f"{summary.trained} trials trained, {stopped}{summary.failed} failed, "
        f"{summary.seconds:.0f} s; "
        f"front: castling front {folder}, models: castling export {folder}",
        soft_wrap=True,
    )
    if not summary.trained:
        errors.print(f"castling: no trial could be trained; castling status {folder} says why")
        raise typer.Exit(1)
    front(folder)


def parse_settings(given: list[str]) -> dict[str, Any]:
    """Return the paths and values of PATH=VALUE arguments, values read as YAML."""
    settings = {}
    for text in given:
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise ConfigError("--set", "must be PATH=VALUE, such as train.epochs=10", text)
        settings[path] = parse_yaml(value, f"--set {path}")
    return settings


@app.command()
def status(run: RunArgument) -> None:
    """Show how far a run has come, live or finished."""
    import reports

    trials = reports.load(run, refused=True)
    counts = trials.state.value_counts()
    console.print(", ".join(f"{counts[state]} {state}" for state in counts.index if counts[state]))
    for row in trials[trials.state == "failed"].itertuples():
        console.print(one_line(f"trial {row.trial} failed: {row.reason}"), soft_wrap=True)
    _print_front(trials)


@app.command()
def front(
    run: RunArgument,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to print it.")
    ] = "table",
    upper: MaxOption = None,
    lower: MinOption = None,
) -> None:
    """Print a run's front: the models that no other beats in every objective."""
    import reports
    from space.budget import parse_bounds

    trials = reports.load(run)
    if upper or lower:
        largest, smallest = parse_bounds(upper or [], "--max"), parse_bounds(lower or [], "--min")
        trials = trials.pareto.within(max=largest, min=smallest)
    if output == "csv":
        sys.stdout.write(trials.pareto.front().to_csv(index=False))
    elif output == "json":
        text = trials.pareto.front().to_json(orient="records", indent=2, date_format="iso")
        sys.stdout.write(text + "\n")
    else:
        _print_front(trials)


def _print_front(trials: "pd.DataFrame") -> None:
    from reports.front import relative_hypervolume
    from search.commands.display import front_table

    volume = relative_hypervolume(trials)
    title = "front" if volume.value is None else f"front, {volume.words}"
    console.print(front_table(trials.pareto.front(), title, ["train_seconds"]))
    if volume.value is None:
        console.print(volume.words, soft_wrap=True)


@app.command()
def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default RUN/report.")] = None,
    upper: MaxOption = None,
    lower: MinOption = None,
) -> None:
    """Write a run's report: an HTML page, the front as PNG and CSV, all trials as CSV."""
    from reports.page import write_report
    from space.budget import parse_bounds

    largest, smallest = parse_bounds(upper or [], "--max"), parse_bounds(lower or [], "--min")
    for path in write_report(run, out, max=largest, min=smallest):
        console.print(str(path), soft_wrap=True, highlight=False)


@app.command()
def export(
    run: RunArgument,
    out: OutOption,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    upper: MaxOption = None,
    lower: MinOption = None,
    trial: Annotated[int | None, typer.Option(help="A trial of the front.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too.")] = False,
) -> None:
    """Write a run's best model within a budget: config, weights, metrics."""
    from reports.export import export as export_model
    from space.budget import parse_bounds

    metrics = export_model(
        run,
        out,
        max_macs=max_macs,
        max_params=max_params,
        max=parse_bounds(upper or [], "--max"),
        min=parse_bounds(lower or [], "--min"),
        trial=trial,
        onnx=onnx,
    )
    console.print(
        f"{metrics.trained_by}: {metrics.macs:,} MACs, {metrics.params:,} parameters, top1 "
        f"{metrics.top1_validation:.2%} validation, {metrics.top1_test:.2%} test; "
        f"written to {out}",
        soft_wrap=True,
        highlight=False,
    )
    _print_masks(metrics.masks)


def _print_masks(sentence: str) -> None:
    if sentence:
        console.print(sentence, soft_wrap=True, highlight=False)


@app.command()
def train(
    config: ConfigArgument,
    out: OutOption,
    initial: Annotated[
        str | None, typer.Option("--from", help="Weights to begin with: a folder's, or timm's.")
    ] = None,
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out.")] = False,
) -> None:
    """Train one config with the full scheme, test it, and write the castled model."""
    from search.train import train_config

    try:
        metrics = train_config(
            config,
            out,
            resume=resume,
            initial=initial,
            settings=parse_settings(settings or []),
            on_epoch=_print_epoch,
        )
    except KeyboardInterrupt:
        given = ["--from", initial] if initial else []
        for setting in settings or []:
            given += ["--set", setting]
        command = shlex.join(["castling", "train", str(config), "--out", str(out), *given])
        errors.print(f"interrupted; go on with: {command} --resume")
        raise typer.Exit(INTERRUPTED) from None
    console.print(
        f"top1 {metrics.top1_validation:.2%} validation, {metrics.top1_test:.2%} test; "
        f"written to {out}",
        soft_wrap=True,
        highlight=False,
    )
    _print_masks(metrics.masks)


def _print_epoch(metrics: "EpochMetrics") -> None:
    density = " ".join(f"{value:.3f}" for value in metrics.mask_density)
    values = metrics.metrics
    measured = [
        f"{name} {values[f'{name}_branch']:.2%}, castled {values[name]:.2%}"
        for name in values
        if f"{name}_branch" in values
    ]
    console.print(
        f"epoch {metrics.epoch}: loss {values['loss']:.4f}, {', '.join(measured)}, "
        f"mask density {density or '-'}, rate {values['learning_rate']:.2e}, "
        f"{values['images_per_s']:.0f} images/s",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Exported or trained folder.")],
) -> None:
    """Measure an exported model's accuracy again and compare it with the recorded one."""
    from reports.export import evaluate_folder

    result = evaluate_folder(folder)
    for split, now, recorded in (
        ("validation", result.top1_validation, result.recorded.top1_validation),
        ("test", result.top1_test, result.recorded.top1_test),
    ):
        verdict = "as recorded" if now == recorded else f"but {recorded:.4%} was recorded"
        console.print(f"{split}: top1 {now:.4%}, {verdict}", highlight=False)
    _print_masks(result.masks)
    if not result.is_reproduced:
        raise typer.Exit(1)


@app.command()
def measure(config: ConfigArgument) -> None:
    """Count a config's MACs and parameters with fvcore, and time the castled model."""
    from castling.model.check import read_run_config
    from space.cost import cost
    from space.measure import measure_model

    model = read_run_config(config).model
    measured, closed = measure_model(model), cost(model)
    table = Table(box=None, pad_edge=False)
    for column in ("", "measured", "closed form"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("MACs", f"{measured.macs:,}", f"{closed.macs:,}")
    table.add_row("parameters", f"{measured.params:,}", f"{closed.params:,}")
    table.add_row("MACs in training", f"{measured.training_macs:,}", f"{closed.training_macs:,}")
    table.add_row("latency, batch 1", f"{measured.latency_ms:.2f} ms", "")
    console.print(table)


@app.command()
def metrics() -> None:
    """List the metrics that a search can trade off and bound."""
    from castling.metrics import recorded_metrics

    table = Table(box=None, pad_edge=False)
    for column in ("metric", "better", "measured", "unit", "summary"):
        table.add_column(column)
    when = {"cost": "before training", "training": "by training"}
    for metric in recorded_metrics():
        better = {"max": "high", "min": "low", None: "-"}[metric.direction]
        row = (metric.name, better, when[metric.source], metric.unit or "-", metric.description)
        table.add_row(*row)
    console.print(table)


@app.command()
def operators(
    tokens: Annotated[int, typer.Option(help="Tokens, a square number.", min=1)] = 196,
    width: Annotated[int, typer.Option(help="Embed width.", min=1)] = 192,
    heads: Annotated[int, typer.Option(help="Heads; must divide the width.", min=1)] = 3,
) -> None:
    """List the operators with the cost of a layer."""
    from space.operator_table import operator_costs

    table = Table(box=None, pad_edge=False, title=f"{tokens} tokens, width {width}, {heads} heads")
    for column in ("operator", "MACs", "training MACs", "params", "summary"):
        table.add_column(column, justify="left" if column in {"operator", "summary"} else "right")
    for name, spent, summary in operator_costs(tokens, width, heads):
        table.add_row(
            name,
            format_size(spent.macs),
            format_size(spent.training_macs),
            format_size(spent.params),
            summary,
        )
    console.print(table)


@app.command()
def layers(
    backbone: Annotated[str, typer.Argument(help="timm's name: deit_tiny_patch16_224.")],
    image_size: Annotated[int | None, typer.Option(help="Pixels of a square image.")] = None,
    operator: Annotated[
        list[str] | None, typer.Option(help="Operator to price; by default two.")
    ] = None,
) -> None:
    """List the attention layers of one of timm's models, with the cost of operators in them."""
    from castling.model.adapters.sites import sites_of
    from castling.model.backbone import stock_backbone
    from space.cost import layer_costs

    model = stock_backbone(backbone, image_size=image_size)
    names = operator or ["softmax", "linear_angular"]
    rows = layer_costs(model, names)
    table = Table(box=None, pad_edge=False, title="MACs of each attention layer, by operator")
    longest = max(len(row.path) for row in rows)
    table.add_column("layer", justify="right")
    table.add_column("timm's module", min_width=longest, no_wrap=True)
    for column in ("queries", "keys", *names):
        table.add_column(column, justify="right")
    for index, row in enumerate(rows):
        costs = [format_size(row.macs[name]) if name in row.macs else "-" for name in names]
        table.add_row(str(index), row.path, str(row.queries), str(row.keys), *costs)
    console.print(table)
    for path, reason in sites_of(model).refused.items():
        console.print(f"{path} stays as it is: it {reason}", soft_wrap=True)


@app.command()
def spaces() -> None:
    """List the spaces that a recipe can search."""
    from space.presets import SPACES

    table = Table(box=None, pad_edge=False)
    for column in ("space", "dimensions", "fewest MACs", "most MACs", "summary"):
        table.add_column(column, justify="left" if column in {"space", "summary"} else "right")
    for name, preset in SPACES.items():
        listing = preset.listing()
        ends = map(format_size, (listing.fewest_macs, listing.most_macs))
        table.add_row(name, str(listing.dimensions), *ends, preset.summary)
    console.print(table)


@app.command()
def recipes() -> None:
    """List the recipes."""
    from search.recipes import RECIPES

    table = Table(box=None, pad_edge=False)
    for column in ("recipe", "summary"):
        table.add_column(column)
    for name, recipe in RECIPES.items():
        table.add_row(name, recipe.summary)
    console.print(table)


@app.command()
def samplers() -> None:
    """List the samplers that propose candidates."""
    from search.samplers import SAMPLERS

    table = Table(box=None, pad_edge=False)
    for column in ("sampler", "summary"):
        table.add_column(column)
    for name, spec in SAMPLERS.items():
        table.add_row(name, spec.summary)
    console.print(table)


@app.command()
def stoppers() -> None:
    """List the stoppers that give trainings up early."""
    from search.stoppers import STOPPERS

    table = Table(box=None, pad_edge=False)
    for column in ("stopper", "summary"):
        table.add_column(column)
    for name, spec in STOPPERS.items():
        table.add_row(name, spec.summary)
    console.print(table)


def _hide_password() -> None:
    """Begin anew without the password of `--storage`: a command line is for all to read.

    Those who list processes see it, and Ray shows it to all users of a cluster.
    """
    if not any(argument.startswith("--storage") for argument in sys.orig_argv):
        return
    from reports.database import VARIABLE, without_passwords

    arguments, url = without_passwords(sys.orig_argv[1:])
    if url is not None:
        os.environ[VARIABLE] = url
        os.execv(sys.executable, [sys.executable, *arguments])


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 bad input, 130 interrupted."""
    _hide_password()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        app()
    except CastlingError as error:
        errors.print(f"castling: {one_line(str(error))}")
        raise SystemExit(2 if error.is_bad_input else 1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        errors.print(one_line(f"castling: {where}{error.strerror or error}"))
        raise SystemExit(1) from None
