"""`castling search`: runs a recipe with the options of the command line."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from castling.errors import ConfigError
from search.commands.console import INTERRUPTED, console, errors
from search.commands.options import (
    ImagesOption,
    MaxMacs,
    MaxOption,
    MaxParams,
    MinOption,
    ObjectiveOption,
    SetOption,
    TrainingOption,
    is_requeued,
    parse_bounds,
    parse_settings,
)
from search.commands.results import front


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
    repeats: Annotated[
        int | None, typer.Option(help="How often to train each candidate, with other seeds.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="How many to train at a time.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Where candidates come from.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Who proposes candidates.")] = None,
    stopper: Annotated[str | None, typer.Option(help="Who gives trainings up early.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the proposals.")] = None,
    images: ImagesOption = None,
    training: TrainingOption = None,
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
    from search.overrides import Overrides

    resume = resume or (is_requeued() and (folder / MANIFEST_FILE).exists())
    overrides = Overrides(
        max_macs=max_macs,
        max_params=max_params,
        max_latency_ms=max_latency_ms,
        objectives=parse_objectives(objective) if objective else None,
        points=points,
        trials=trials,
        repeats=repeats,
        workers=workers,
        strategy=strategy,
        sampler=sampler,
        stopper=stopper,
        seed=seed,
        images=images,
        training=training,
        settings=parse_settings(settings or []),
        **parse_bounds(upper, lower),
    )
    shown = TerminalDisplay(console)
    try:
        summary = run(
            recipe,
            out=folder,
            resume=resume,
            address=address,
            storage=storage,
            display=shown,
            **overrides,
        )
    except KeyboardInterrupt:
        begun = (folder / MANIFEST_FILE).exists()
        command = shlex.join(["castling", "search", "--out", str(folder), "--resume"])
        hint = f"go on with: {command}" if begun else "nothing begun"
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
