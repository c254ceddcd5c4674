"""Checks of a split's labels: classes that the head has, as many per image as the dataset says."""

from castling.config import DataConfig
from castling.data.dataset import DatasetInfo, Labels
from castling.errors import DataError


def check_labels(labels: Labels, info: DatasetInfo, config: DataConfig) -> None:
    """Raise DataError unless labels are those of a dataset.

    Args:
        labels: (image), int64; of a multi-label dataset (image, class), bool.
        info: of the dataset.
        config: its name, for the error.
    """
    num_classes = len(info.classes)
    if info.is_multilabel:
        if labels.ndim != 2 or labels.shape[1] != num_classes or labels.dtype != bool:
            reason = f"must have labels (image, {num_classes}) of bools, one per class"
            raise DataError(config.name, f"{reason}, got {labels.dtype} {labels.shape}", _MEND)
        return
    if labels.ndim != 1:
        reason = "must have one label per image unless its info says is_multilabel"
        raise DataError(config.name, f"{reason}, got labels {labels.shape}", _MEND)
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        reason = f"must have labels from 0 to {num_classes - 1}, the head's classes, got {wrong}"
        raise DataError(config.name, reason, _MEND)


_MEND = "correct the labels, or the classes of the dataset"
