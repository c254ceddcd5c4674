"""Training one config at full length, as `castling train` does: resumable, scored, exported."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from castling.config import RunConfig
from castling.cores import limit_torch_threads
from castling.data.index import INDEX_FILE, IndexFile
from castling.data.sources import source_settings
from castling.errors import ConfigError, RunFolderError
from castling.files import write_yaml
from castling.model.check import digest, read_run_config
from castling.model.storage import CONFIG_FILE
from castling.tasks import TASKS
from castling.training.callbacks import Curve
from castling.training.checkpoint import remove_checkpoint
from castling.training.data import TrainingData, training_data
from castling.training.loop import Trained, train
from castling.training.metrics import EpochMetrics
from castling.training.out_of_memory import is_out_of_memory, with_less_memory
from castling.training.recipes import training_settings
from castling.training.start import check_start
from castling.training.summary import describe
from reports.export import write_model
from reports.masks import TrainingEnd
from reports.model_metrics import METRICS_FILE, ModelMetrics
from reports.records import TRAINING_CURVE_FILE
from search.config import with_settings
from space.contract import check_model
from space.presets import SPACES


CHECKPOINT_FILE, CURVE_FILE = "training.safetensors", TRAINING_CURVE_FILE


def train_config(  # noqa: PLR0913 - what `castling train` takes, and whom it tells
    config: str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    initial: str | Path | None = None,
    images: str | Path | None = None,
    training: str | None = None,
    settings: Mapping[str, Any] | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
    num_workers: int = 1,
    address: str | None = None,
) -> ModelMetrics:
    """Train a config with the full scheme and write the castled model, tested.

    Args:
        config: a YAML file of a RunConfig, a folder with a config.yaml, or the name of a space,
            whose base config is then trained.
        out: the folder to write; empty, or with `resume` that of an interrupted training.
        resume: go on from the folder's checkpoint.
        initial: weights to begin with, in place of the config's `train.initial`: of a model
            that differs at most in the choices of its attention layers.
        images: folder of class folders, or of train/ and test/ with them, or a source such as
            hf:photos, in place of the config's data.
        training: a training recipe, by name or as a YAML file; it replaces fields of the config.
        settings: dotted config paths and values, such as {"train.epochs": 10}; they replace those
            of recipe and images.
        on_epoch: called after every epoch.
        on_note: called with a sentence: what images were found; and that batches are divided,
            when memory runs out.
        num_workers: processes that train together, by Ray Train; 1 trains in this process.
        address: of a Ray cluster for them, whose machines all see `out`; None is this machine.

    Raises:
        CastlingError: one of its kinds when config, data or folder are unusable.
    """
    config, out = Path(config), Path(out)
    limit_torch_threads()
    if num_workers < 1:
        raise ConfigError("--num-workers", "must be at least 1", num_workers)
    begun = {} if initial is None else {"train.initial": str(initial)}
    run = _base(config)
    run = with_settings(
        run,
        {
            **({} if training is None else training_settings(training, run)),
            **({} if images is None else source_settings(images, settings or {})),
            **(settings or {}),
            **begun,
        },
    )
    check_model(run.model)
    run = run.replace(preprocessing=None)  # it follows from these data, not from others
    index = IndexFile(out / INDEX_FILE, is_new=not resume)
    data = training_data(run, index=index)
    check_start(run)
    _claim(out, run, resume=resume)
    index.write()
    for sentence in describe(run, data, index):
        on_note(sentence)

    def report(metrics: EpochMetrics) -> bool:
        on_epoch(metrics)
        return True

    if num_workers > 1 or address is not None:
        from search.execution.train_workers import train_on_workers

        train_on_workers(
            run,
            out,
            num_workers=num_workers,
            address=address,
            trained_by=str(config),
            checkpoint=CHECKPOINT_FILE,
            curve=CURVE_FILE,
            on_epoch=on_epoch,
        )
        remove_checkpoint(out / CHECKPOINT_FILE)
        return ModelMetrics.read(out)
    run, trained = _trained(run, data, out, report, on_note)
    metrics = write_model(
        trained.model,
        run,
        data,
        out,
        trained_by=str(config),
        end=TrainingEnd.of(trained.metrics, TASKS[run.task].primary),
        index=index,
    )
    remove_checkpoint(out / CHECKPOINT_FILE)
    return metrics


def _base(config: Path) -> RunConfig:
    """Return the config of a file or folder, or else the base config of a space of this name."""
    if not config.exists() and str(config) in SPACES:
        return SPACES[str(config)]().base
    return read_run_config(config)


def _trained(
    run: RunConfig,
    data: TrainingData,
    out: Path,
    report: Callable[[EpochMetrics], bool],
    on_note: Callable[[str], None],
) -> tuple[RunConfig, Trained]:
    """Train, with divided batches where memory runs out; return the config with the division."""
    curve = Curve(out / CURVE_FILE)
    while True:
        try:
            checkpoint = out / CHECKPOINT_FILE
            return run, train(run, data, callbacks=[curve], on_epoch=report, checkpoint=checkpoint)
        except (RuntimeError, MemoryError) as error:
            divided = with_less_memory(run) if is_out_of_memory(error) else None
            if divided is None:
                raise
        # outside of the handler, whose error holds tensors of the step
        run, parts = divided, divided.train.accumulation
        on_note(f"out of memory: each batch passes the model in {parts} parts from here on")


def is_begun(out: Path) -> bool:
    """Return whether a folder holds a training that has not ended."""
    return (out / CONFIG_FILE).is_file() and not (out / METRICS_FILE).exists()


def _claim(out: Path, run: RunConfig, *, resume: bool) -> None:
    """Create the folder, or check that it belongs to this training; else RunFolderError."""
    started = out / CONFIG_FILE
    if not resume:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunFolderError(
                str(out), "is not empty", "add --resume to go on with it, or choose another --out"
            )
        write_yaml(started, run.to_data(), "Being trained by castling train.")
        return
    if not started.is_file():
        raise RunFolderError(str(out), "holds no training to go on with", "leave out --resume")
    if digest(read_run_config(started)) != digest(run):
        raise RunFolderError(
            str(out), "holds the training of another config", "choose another --out"
        )
    if (out / METRICS_FILE).exists():
        raise RunFolderError(str(out), "is trained already", "castling evaluate shows the result")
