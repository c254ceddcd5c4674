"""Predictions of saved models on files: `castling predict`, and `castling.predict` in Python."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from castling.config import Preprocessing, RunConfig
from castling.errors import CastlingError, ConfigError, DataError
from castling.model.check import read_run_config
from castling.model.prediction import BATCH, EXPORT_AGAIN, Prediction, Predictor
from castling.model.storage import load
from castling.training.data import training_data
from castling.training.device import device_of
from castling.untrusted.image_folders import image_paths


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePrediction:
    """The prediction of one file, or why there is none."""

    path: Path
    classes: Prediction
    """The most probable first; empty where the file is unreadable."""
    problem: str = ""
    """Why the file is no readable image; else nothing."""


def predict(
    folder: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    top: int | None = 5,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Return the classes of image files, a row per class: `pandas.DataFrame` takes them.

    Args:
        folder: an exported or trained model.
        images: a file, a folder of files at any depth, or a list of files.
        top: classes of each image; None for all.
        device: of torch; None takes a GPU where there is one.

    Returns:
        `image`, `rank` (from 1), `class`, `probability` of each class of each image.

    Raises:
        ConfigError: when the model is unusable, or was stored without its preprocessing and its
            training images are gone.
        DataError: when a file is no readable image, or there is none.
    """
    rows: list[dict[str, Any]] = []
    for one in predict_files(folder, images, top=top, device=device):
        if one.problem:
            raise DataError(str(one.path), one.problem, "remove or replace it")
        rows += table_rows(one)
    return rows


def table_rows(one: FilePrediction) -> list[dict[str, Any]]:
    """Return a row per class of a prediction: image, rank, class, probability."""
    return [
        {"image": str(one.path), "rank": rank, "class": name, "probability": value}
        for rank, (name, value) in enumerate(one.classes.items(), start=1)
    ]


def predict_files(
    folder: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    top: int | None = 5,
    device: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Iterator[FilePrediction]:
    """Yield the prediction of every file; an unreadable one is yielded with its problem.

    Arguments and errors as of `predict`; `on_progress` gets the files done and all of them.
    """
    predictor = _loaded(Path(folder), device)
    files = list_files(images)
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        yield from _batch(predictor, batch, top)
        on_progress(start + len(batch), len(files))


def list_files(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that a path, or several, name; those of a folder by their names' suffixes.

    Raises:
        DataError: when there is no such file, or a folder has no image.
    """
    if not isinstance(images, str | Path):
        return [Path(path) for path in images]
    place = Path(images).expanduser()
    if not place.is_dir():
        if not place.exists():
            raise DataError(str(place), "there is no such file or folder", "check the path")
        return [place]
    files = image_paths(place, str(place))
    if not files:
        raise DataError(str(place), "has no images", "name a folder with some, or a file")
    return files


def stored_preprocessing(run: RunConfig) -> Preprocessing:
    """Return the preprocessing of a saved model's config, else that of its training images.

    Raises:
        ConfigError: when neither is there.
    """
    if run.preprocessing is not None:
        return run.preprocessing
    try:
        return training_data(run).preprocessing
    except CastlingError as error:
        rule = f"is missing, and cannot be computed from the training images ({error})"
        raise ConfigError("preprocessing", rule, fix=EXPORT_AGAIN) from None


def _loaded(folder: Path, device: str | None) -> Predictor:
    run = read_run_config(folder)
    model = load(folder).to(device_of(device))
    return Predictor(model, stored_preprocessing(run), run.task)


def _batch(
    predictor: Predictor, files: Sequence[Path], top: int | None
) -> Iterator[FilePrediction]:
    """Yield the predictions of a batch; file by file where one of them is unreadable."""
    try:
        found = [*predictor.each(files, top=top)]
    except DataError as error:
        if len(files) == 1:
            yield FilePrediction(path=files[0], classes={}, problem=error.reason)
            return
        for file in files:
            yield from _batch(predictor, [file], top)
        return
    for path, classes in zip(files, found, strict=True):
        yield FilePrediction(path=path, classes=classes)
