"""Metrics of made-up epochs."""

from castling.training.metrics import EpochMetrics


def epoch_metrics(
    epoch: int, mask_density: tuple[float, ...] = (), **metrics: float
) -> EpochMetrics:
    """Return an epoch of classification; the metrics that are left out have some value."""
    made_up = {
        "loss": 1.0,
        "top1": 0.5,
        "top1_branch": 0.6,
        "learning_rate": 1e-3,
        "images_per_s": 100.0,
        "train_seconds": float(epoch),
    }
    return EpochMetrics(epoch=epoch, metrics=made_up | metrics, mask_density=mask_density)
