"""Predictions of a loaded model, from pictures prepared as in its training."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from castling.config import DEFAULT_TASK, Preprocessing
from castling.data.transforms import MODES, evaluation_transform
from castling.errors import ConfigError
from castling.tasks import TASKS
from castling.untrusted.image_files import read_picture, upright


if TYPE_CHECKING:
    from PIL.Image import Image

Prediction = dict[str, float]
"""Names of classes and their probabilities, the most probable first."""

BATCH = 64
"""Pictures per forward pass."""
EXPORT_AGAIN = "export or train the model again, or add the section to its config.yaml"


class Predictor:
    """A model with the transform of its pictures and the names of its classes.

    `castling.load` gives it to models as `model.predict`. It goes along when a model is copied.

    Args:
        model: castled, in eval mode.
        preprocessing: of the model's training; None where it was not stored.
        task: by its name; it decides what the outputs mean.
    """

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing | None, task: str = DEFAULT_TASK
    ) -> None:
        self.model, self.preprocessing, self.task = model, preprocessing, task

    @overload
    def __call__(
        self, pictures: "Image | str | Path", *, top: int | None = None
    ) -> Prediction: ...

    @overload
    def __call__(
        self, pictures: list[Any] | tuple[Any, ...], *, top: int | None = None
    ) -> list[Prediction]: ...

    def __call__(self, pictures: Any, *, top: int | None = None) -> Prediction | list[Prediction]:
        """Return the classes of a picture with their probabilities, or of each of a list.

        Args:
            pictures: of Pillow, of any size and mode, or paths; one, or a list or tuple of them.
            top: how many classes; None for all.

        Raises:
            ConfigError: when the model was stored without its preprocessing.
            DataError: when a file is no readable image.
        """
        if isinstance(pictures, list | tuple):
            return [*self.each(pictures, top=top)]
        return next(self.each([pictures], top=top))

    def each(
        self, pictures: "Sequence[Image | str | Path]", *, top: int | None = None
    ) -> Iterator[Prediction]:
        """Yield the predictions of pictures, which are decoded as they are needed."""
        if top is not None and top < 1:
            raise ConfigError("top", "must be at least 1", top)
        preprocessing = self._known()
        mode, transform = (
            MODES.get(preprocessing.channels, ""),
            evaluation_transform(preprocessing),
        )
        remaining = iter(pictures)
        while batch := [transform(_upright(one, mode)) for one in islice(remaining, BATCH)]:
            for probabilities in self._probabilities(torch.stack(batch)):
                yield self._named(probabilities, preprocessing.classes, top)

    @torch.inference_mode()
    def _probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities (image, class) of prepared images, on the CPU."""
        weight = next(self.model.parameters())
        was_training = self.model.training
        self.model.eval()
        try:
            outputs = self.model(images.to(weight.device, weight.dtype)).float().cpu()
        finally:
            self.model.train(was_training)
        if TASKS[self.task].is_multilabel:
            return outputs.sigmoid()
        return outputs.softmax(dim=1)

    def _named(
        self, probabilities: Tensor, classes: tuple[str, ...], top: int | None
    ) -> Prediction:
        """Return probabilities (class) by name; classes without names have their numbers."""
        names = classes or tuple(map(str, range(len(probabilities))))
        if len(names) != len(probabilities):
            rule = f"must name each of the model's {len(probabilities)} outputs"
            raise ConfigError("preprocessing.classes", rule, f"{len(names)} names")
        values, order = probabilities.sort(descending=True, stable=True)
        pairs = zip(order.tolist(), values.tolist(), strict=True)
        return {names[number]: value for number, value in islice(pairs, top)}

    def _known(self) -> Preprocessing:
        if self.preprocessing is None:
            rule = "is required to predict, and this folder has none"
            raise ConfigError("preprocessing", rule, fix=EXPORT_AGAIN)
        return self.preprocessing


def _upright(picture: Any, mode: str) -> "Image":
    """Return a picture as it is to be seen, grey or in colour."""
    from PIL import Image

    if isinstance(picture, str | Path):
        return read_picture(Path(picture), mode, "to predict")
    if not isinstance(picture, Image.Image):
        rule = "must be a picture of Pillow, the path of one, or a list of them"
        raise ConfigError("pictures", rule, type(picture).__name__)
    return upright(picture, mode)
