"""Exports models of a run: config, weights and metrics in a folder that loads anywhere."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torch import nn

from castling.config import RunConfig
from castling.data.index import INDEX_FILE, SKIPPED_FILE, IndexFile
from castling.errors import CostMismatchError, RunFolderError
from castling.files import write_text, write_yaml
from castling.metrics import plugin_metrics
from castling.model.castle import castle
from castling.model.check import read_run_config, run_config
from castling.model.settle import settle, settled_config
from castling.model.storage import CONFIG_FILE, WEIGHTS_FILE, load, load_weights, save_weights
from castling.tasks import TASKS
from castling.training.data import (
    TrainingData,
    evaluation_batches,
    images_for_tests,
    training_data,
)
from castling.training.device import device_of
from castling.training.evaluation import evaluate
from castling.training.fingerprint import changed, fingerprint, fingerprints
from castling.training.hooks import hooked_metrics
from reports.curves import read_curve
from reports.frame import load as load_trials, load_config
from reports.manifest import Manifest
from reports.masks import TrainingEnd, alive_masks, last_threshold
from reports.model_metrics import METRICS_FILE, ModelMetrics
from reports.onnx_file import ONNX_FILE, Layout, check_onnx, write_onnx
from reports.records import weights_path
from space.budget import Limits
from space.cost import cost
from space.cost_model import Costs
from space.measure import measure_macs, measure_params


if TYPE_CHECKING:
    import pandas as pd

FILES = (WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE, INDEX_FILE, SKIPPED_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The task's metrics measured now, and those recorded at export."""

    validation: Mapping[str, float]
    test: Mapping[str, float]
    recorded: ModelMetrics
    masks: str
    """One sentence where masks were alive at the end of the training; else nothing."""
    changed: str = ""
    """One sentence where the images are not those of the export; else nothing."""

    @property
    def is_reproduced(self) -> bool:
        """Whether every metric that was recorded has exactly its value."""
        return all(
            now.get(name) == value
            for now, then in (
                (self.validation, self.recorded.validation),
                (self.test, self.recorded.test),
            )
            for name, value in then.items()
        )


def export(
    run: str | Path,
    out: str | Path,
    *,
    trial: int | None = None,
    onnx: bool = False,
    preprocess_in_graph: Layout | None = None,
    device: str | None = None,
    **limits: Unpack[Limits],
) -> ModelMetrics:
    """Write the best model of a run, or that of one trial, to a folder.

    Args:
        run: the run folder.
        out: the folder to write: config.yaml, model.safetensors, metrics.json.
        trial: a trial of the front, instead of the best within the limits.
        onnx: write model.onnx too.
        preprocess_in_graph: let model.onnx take uint8 pixels with these axes, `nchw` or `nhwc`;
            scaling and normalisation are then part of it. Implies `onnx`.
        device: of torch, for the evaluation; None takes a GPU where there is one.
        limits: `max_macs`, `max_params`, `max_latency_ms`, `max` and `min`; see `Limits`.

    Raises:
        ConfigError: when no trial of the front fits.
        RunFolderError: when the run no longer has the trial's weights.
    """
    run, out, place = Path(run), Path(out), device_of(device)
    trials = load_trials(run)
    number = trial
    if number is None:
        number = int(trials.pareto.front().pareto.best(**limits).trial)
    config = run_config(load_config(run, number), f"trial {number}")
    weights = weights_path(run, number)
    if not weights.is_file():
        raise RunFolderError(
            str(run),
            f"has no weights of trial {number}: only those of the front are kept",
            f"choose one of {', '.join(map(str, trials.pareto.front().trial))}",
        )
    _check_empty(out)
    model = load_weights(config.model, weights).to(place)
    if onnx := onnx or preprocess_in_graph is not None:
        check_onnx(preprocess_in_graph)
    manifest = Manifest.read(run)
    end = _training_end(run, manifest, trials.loc[trials.trial == number].iloc[0], config)
    index = IndexFile(run / INDEX_FILE)
    data = training_data(config.replace(preprocessing=manifest.preprocessing), index=index)
    difference = changed(manifest.images, fingerprints(data))
    if difference:
        raise RunFolderError(str(run), difference, "restore the images that it was trained on")
    try:
        metrics = write_model(
            model,
            config,
            data,
            out,
            trained_by=f"{run.name}, trial {number}",
            end=end,
            index=index,
        )
        if onnx:
            write_onnx(
                load(out), out, data.preprocessing, task=config.task, layout=preprocess_in_graph
            )
    except BaseException:
        for name in (*FILES, ONNX_FILE):
            (out / name).unlink(missing_ok=True)  # so that the same --out can be tried again
        raise
    return metrics


def _training_end(
    run: Path, manifest: Manifest, row: "pd.Series[Any]", config: RunConfig
) -> TrainingEnd:
    """Return the end of the training whose weights are kept.

    It is in the record; with several repeats, of which the record has the means, in the curve.
    """
    task = TASKS[config.task]
    curve = read_curve(run, int(row.trial)) if manifest.recipe.get("repeats", 1) != 1 else []
    if curve:
        end = curve[-1]
        if config.train.keep == "best":
            sign = 1.0 if task.metrics[task.primary] == "max" else -1.0
            end = max(curve, key=lambda epoch: sign * epoch.metrics[task.primary])
        return TrainingEnd.of(end.replace(epoch=curve[-1].epoch), task.primary)
    branch = row.get(f"{task.primary}_branch", math.nan)
    return TrainingEnd.of_record(int(row.epochs), branch, row.mask_density)


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(str(out), "must be a new or empty folder", "choose another --out")


def write_model(  # noqa: PLR0913 - all that the files of a model tell
    model: nn.Module,
    config: RunConfig,
    data: TrainingData,
    out: Path,
    *,
    trained_by: str,
    end: TrainingEnd,
    index: IndexFile | None = None,
) -> ModelMetrics:
    """Settle and castle a model, test it, and write it with its config, metrics and images' index.

    Raises:
        CostMismatchError: when fvcore's count of the model is not the closed form's.
    """
    threshold = last_threshold(config, end.epochs)
    config = config.replace(model=settled_config(config.model, model))
    castled = castle(settle(model))
    primary = TASKS[config.task].primary
    on_validation = evaluate(config, castled, data.validation, data)
    shape = (config.model.channels, *config.model.image_size)
    spent = cost(config.model)
    test = images_for_tests(config, data.preprocessing, index)
    device = next(castled.parameters()).device.type
    on_test = evaluate(config, castled, test, data)
    other_metrics = _other_metrics(config, castled, data)
    castled = castled.cpu()
    metrics = ModelMetrics(
        primary=primary,
        validation=on_validation,
        test=on_test,
        macs=measure_macs(castled, shape),
        params=measure_params(castled),
        data=config.data.name,
        trained_by=trained_by,
        epochs=end.epochs,
        castling_version=version("castling-nas"),
        exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=other_metrics,
        validation_branch=end.branch,
        mask_density=end.mask_density,
        mask_threshold=threshold,
        masks=alive_masks(threshold, end, primary, on_validation[primary]),
        images=fingerprints(data) | {"test": fingerprint(test)},
        device=device,
    )
    for quantity, closed, measured in (
        ("MACs", spent.macs, metrics.macs),
        ("parameters", spent.params, metrics.params),
    ):
        if closed != measured:
            raise CostMismatchError(quantity, closed, measured)
    save_weights(castled, out / WEIGHTS_FILE)
    write_yaml(
        out / CONFIG_FILE,
        config.replace(preprocessing=data.preprocessing).to_data(),
        f"From {trained_by}. castling.load gives the model beside this file;\n"
        "castling train trains this config anew.",
    )
    if index is not None:
        index.write(out / INDEX_FILE)
    write_text(out / METRICS_FILE, json.dumps(metrics.to_data(), indent=2) + "\n")
    return metrics


def _other_metrics(config: RunConfig, castled: nn.Module, data: TrainingData) -> dict[str, float]:
    """Return the metrics of other packages that are defined for a model."""
    device = next(castled.parameters()).device
    batches = evaluation_batches(data.validation, data.preprocessing, device, config)
    costs = Costs(config.model)
    values = {metric.name: costs.get(metric.name, math.nan) for metric in plugin_metrics()}
    values |= hooked_metrics(lambda: castled, batches.in_order)
    batches.close()
    return {name: value for name, value in values.items() if math.isfinite(value)}


def evaluate_folder(folder: str | Path, *, device: str | None = None) -> Evaluation:
    """Measure an exported model's accuracies again.

    Args:
        folder: exported or trained.
        device: of torch; None takes a GPU where there is one.

    Raises:
        CastlingError: one of its kinds when config, weights, metrics or data are unusable.
    """
    folder, place = Path(folder), device_of(device)
    config = read_run_config(folder)
    recorded = ModelMetrics.read(folder)
    model = load(folder).to(place)
    index = IndexFile(folder / INDEX_FILE, relists=True)
    data = training_data(config, index=index)
    test = images_for_tests(config, data.preprocessing, index)
    on_validation = evaluate(config, model, data.validation, data)
    end = TrainingEnd(
        epochs=recorded.epochs,
        branch=recorded.validation_branch,
        mask_density=recorded.mask_density,
    )
    threshold = recorded.mask_threshold
    if threshold is None:  # castling 0.1.0 did not record it
        threshold = last_threshold(config, recorded.epochs)
    return Evaluation(
        validation=on_validation,
        test=evaluate(config, model, test, data),
        recorded=recorded,
        masks=alive_masks(threshold, end, recorded.primary, on_validation[recorded.primary]),
        changed=changed(recorded.images, fingerprints(data) | {"test": fingerprint(test)}),
    )
