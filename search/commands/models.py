"""Single models: `castling export`, `train`, `evaluate` and `measure`."""

import shlex
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.commands.console import INTERRUPTED, console, errors, print_result, print_table
from search.commands.options import (
    ConfigArgument,
    DeviceOption,
    ImagesOption,
    MaxMacs,
    MaxOption,
    MaxParams,
    MinOption,
    OutOption,
    RunArgument,
    SetOption,
    TrainingOption,
    is_requeued,
    parse_bounds,
    parse_settings,
)


if TYPE_CHECKING:
    from castling.training.metrics import EpochMetrics
    from reports.model_metrics import ModelMetrics


def export(
    run: RunArgument,
    out: OutOption,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    upper: MaxOption = None,
    lower: MinOption = None,
    trial: Annotated[int | None, typer.Option(help="A trial of the front.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx too.")] = False,
    in_graph: Annotated[
        str | None,
        typer.Option(
            "--preprocess-in-graph",
            metavar="nchw|nhwc",
            help="Let model.onnx take uint8 pixels of these axes, and normalise them itself.",
        ),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Write a run's best model within a budget: config, weights, metrics."""
    from reports.export import export as export_model

    metrics = export_model(
        run,
        out,
        max_macs=max_macs,
        max_params=max_params,
        trial=trial,
        onnx=onnx,
        preprocess_in_graph=in_graph,  # type: ignore[arg-type]  # which is checked
        device=device,
        **parse_bounds(upper, lower),
    )
    print_result(
        f"{metrics.trained_by}: {metrics.macs:,} MACs, {metrics.params:,} parameters, "
        f"{_accuracy(metrics)}; "
        f"written to {out}"
    )
    print_result(metrics.masks)


def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="YAML file of a config, a folder with one, or a space's name."
        ),
    ],
    out: OutOption,
    initial: Annotated[
        str | None, typer.Option("--from", help="Weights to begin with: a folder's, or timm's.")
    ] = None,
    images: ImagesOption = None,
    training: TrainingOption = None,
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out.")] = False,
    num_workers: Annotated[
        int, typer.Option(help="Processes that train together, each on a GPU if there are enough.")
    ] = 1,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to train on, whose machines all see --out.")
    ] = None,
) -> None:
    """Train one config with the full scheme, test it, and write the castled model."""
    from search.train import is_begun, train_config

    resume = resume or (is_requeued() and is_begun(out))
    try:
        metrics = train_config(
            config,
            out,
            resume=resume,
            initial=initial,
            images=images,
            training=training,
            settings=parse_settings(settings or []),
            on_epoch=_Epochs(out),
            on_note=errors.print,
            num_workers=num_workers,
            address=address,
        )
    except KeyboardInterrupt:
        given = ["--from", initial] if initial else []
        given += ["--images", images] if images else []
        given += ["--training", training] if training else []
        given += ["--num-workers", str(num_workers)] if num_workers > 1 else []
        given += ["--address", address] if address else []
        for setting in settings or []:
            given += ["--set", setting]
        command = shlex.join(["castling", "train", str(config), "--out", str(out), *given])
        errors.print(f"interrupted; go on with: {command} --resume")
        raise typer.Exit(INTERRUPTED) from None
    print_result(f"{_accuracy(metrics)}; written to {out}")
    print_result(metrics.masks)


def _accuracy(metrics: "ModelMetrics") -> str:
    """Return the primary metric of a written model in words."""
    name = metrics.primary
    return f"{name} {metrics.validation[name]:.2%} validation, {metrics.test[name]:.2%} test"


class _Epochs:
    """Prints the epochs of a training whose folder has its config.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    @cached_property
    def _planned(self) -> int:
        from castling.model.check import read_run_config

        return read_run_config(self._out).train.epochs

    def __call__(self, metrics: "EpochMetrics") -> None:
        """Print an epoch, and the time left as long as those before took on average."""
        density = " ".join(f"{value:.3f}" for value in metrics.mask_density)
        values = metrics.metrics
        primary = next(name for name in values if f"{name}_branch" in values)
        to_come = self._planned - metrics.epoch
        seconds = round(values["train_seconds"] / metrics.epoch * to_come)
        print_result(
            f"epoch {metrics.epoch}/{self._planned}: loss {values['loss']:.4f}, {primary} "
            f"{values[f'{primary}_branch']:.2%}, castled {values[primary]:.2%}, "
            f"mask density {density or '-'}, rate {values['learning_rate']:.2e}, "
            f"{values['images_per_s']:.0f} images/s"
            + (f", {timedelta(seconds=seconds)} left" if to_come else "")
        )


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Exported or trained folder.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Other images, in folders named as the model's classes."),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Measure an exported model's accuracy again, or measure it on other images."""
    from reports.export import evaluate_folder

    if images is not None:
        _evaluate_images(folder, images, device)
        return
    result = evaluate_folder(folder, device=device)
    for split, now, recorded in (
        ("validation", result.validation, result.recorded.validation),
        ("test", result.test, result.recorded.test),
    ):
        for name, value in now.items():
            verdict = "as recorded"
            if name not in recorded:
                verdict = "which was not recorded"
            elif value != recorded[name]:
                verdict = f"but {recorded[name]:.4%} was recorded"
            console.print(f"{split}: {name} {value:.4%}, {verdict}", highlight=False)
    print_result(result.changed)
    print_result(result.masks)
    if not result.is_reproduced:
        raise typer.Exit(1)


def _evaluate_images(folder: Path, images: Path, device: str | None) -> None:
    """Print the metrics of a model on a folder of images."""
    from castling.metrics import METRICS
    from reports.evaluate_images import evaluate_images

    found = evaluate_images(folder, images, device=device)
    words = ", ".join(
        f"{name} {METRICS[name].text(value) if name in METRICS else format(value, '.4g')}"
        for name, value in found.metrics.items()
    )
    print_result(f"{images}, {found.num_images:,} images: {words}")
    print_result(found.note)


def measure(config: ConfigArgument) -> None:
    """Count a config's MACs and parameters with fvcore, and time the castled model."""
    from castling.model.check import read_run_config
    from space.cost import cost
    from space.measure import measure_model

    model = read_run_config(config).model
    measured, closed = measure_model(model), cost(model)
    rows = (
        ("MACs", f"{measured.macs:,}", f"{closed.macs:,}"),
        ("parameters", f"{measured.params:,}", f"{closed.params:,}"),
        ("MACs in training", f"{measured.training_macs:,}", f"{closed.training_macs:,}"),
        ("latency, batch 1", f"{measured.latency_ms:.2f} ms", ""),
    )
    print_table(("", "measured", "closed form"), rows, words=("",))
